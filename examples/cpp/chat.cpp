// Asks a question about a picture and prints the answer as it is written.
//
//   chat BUNDLE "What is on the table?" picture.ppm
//
// The picture is a binary PPM (P6), which needs no library to be read: `magick picture.jpg picture.ppm`.
#include <internvl/model.h>

#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

struct Picture {
  std::vector<std::uint8_t> pixels;
  std::int64_t width = 0;
  std::int64_t height = 0;
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  Picture picture;
  int most = 0;
  file >> kind >> picture.width >> picture.height >> most;
  file.get();
  if (!file || kind != "P6" || most != 255 || picture.width < 1 || picture.height < 1) {
    throw std::runtime_error(path + ": is no binary PPM of 8 bits.");
  }
  picture.pixels.resize(static_cast<std::size_t>(picture.width * picture.height) * 3);
  file.read(reinterpret_cast<char*>(picture.pixels.data()),
            static_cast<std::streamsize>(picture.pixels.size()));
  if (!file) throw std::runtime_error(path + ": is truncated.");
  return picture;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::cerr << "usage: chat BUNDLE QUESTION [PICTURE.ppm]\n";
    return 2;
  }
  try {
    const internvl::Model model = internvl::Model::load(argv[1]);
    std::vector<internvl::Image> images;
    Picture picture;
    if (argc == 4) {
      picture = read_ppm(argv[3]);
      images.push_back(internvl::Image::rgb(picture.pixels.data(), picture.width, picture.height));
    }
    const internvl::Answer answer =
        model.stream(argv[2], images, {.max_new_tokens = 200}, [](std::string_view piece) {
          std::cout << piece << std::flush;
          return true;
        });
    std::cout << std::endl;
    std::cerr << answer.usage.new_tokens << " tokens in " << answer.timings.total << " ms, the first after "
              << answer.timings.first_token << " ms\n";
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
