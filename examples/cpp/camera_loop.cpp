// Asks the same question of every frame of a camera, and prints an answer a line.
//
//   camera_loop BUNDLE "Is the path free?" --size 640x480 --format yuyv frames.raw
//   camera_loop BUNDLE "Is the path free?" --size 640x480 --format yuyv /dev/video0 --frames 20
//
// Frames come from a file in which they follow one another without anything between them, or from a V4L2
// device. A device goes on while a frame is looked at: the frames that come meanwhile are dropped, so that
// the answer is always about what the camera has just seen.
#include <fcntl.h>
#include <internvl/model.h>
#include <linux/videodev2.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

namespace {

using Frame = std::vector<std::uint8_t>;

struct Format {
  internvl::Image (*image)(const std::uint8_t*, std::int64_t, std::int64_t, std::int64_t);
  int bits;            // of a pixel
  std::uint32_t v4l2;  // as the device names it
};

const std::map<std::string, Format> formats = {
    {"rgb", {internvl::Image::rgb, 24, V4L2_PIX_FMT_RGB24}},
    {"bgr", {internvl::Image::bgr, 24, V4L2_PIX_FMT_BGR24}},
    {"gray", {internvl::Image::gray, 8, V4L2_PIX_FMT_GREY}},
    {"nv12", {internvl::Image::nv12, 12, V4L2_PIX_FMT_NV12}},
    {"yuyv", {internvl::Image::yuyv, 16, V4L2_PIX_FMT_YUYV}},
};

struct Options {
  std::string bundle;
  std::string question;
  std::string source;
  std::string format = "yuyv";
  std::int64_t width = 640;
  std::int64_t height = 480;
  long frames = -1;  // all
  long tokens = 32;
};

class Source {
 public:
  virtual ~Source() = default;
  // The next frame; false at the end.
  virtual bool next(Frame& frame) = 0;
};

class File : public Source {
 public:
  explicit File(const std::string& path) : file_(path, std::ios::binary) {
    if (!file_) throw std::runtime_error(path + ": cannot be opened.");
  }
  bool next(Frame& frame) override {
    return static_cast<bool>(
        file_.read(reinterpret_cast<char*>(frame.data()), static_cast<std::streamsize>(frame.size())));
  }

 private:
  std::ifstream file_;
};

// Two buffers of the driver's, mapped into memory.
class Camera : public Source {
 public:
  Camera(const std::string& path, const Options& options, std::uint32_t format)
      : device_(open(path.c_str(), O_RDWR)) {
    if (device_ < 0) fail(path);
    v4l2_format wanted = {};
    wanted.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    wanted.fmt.pix.width = static_cast<std::uint32_t>(options.width);
    wanted.fmt.pix.height = static_cast<std::uint32_t>(options.height);
    wanted.fmt.pix.pixelformat = format;
    call(VIDIOC_S_FMT, &wanted, "setting the format");
    if (wanted.fmt.pix.pixelformat != format || wanted.fmt.pix.width != options.width ||
        wanted.fmt.pix.height != options.height) {
      throw std::runtime_error(path + ": has no frames of this size and format; it offers " +
                               std::to_string(wanted.fmt.pix.width) + "x" +
                               std::to_string(wanted.fmt.pix.height) + ".");
    }
    v4l2_requestbuffers buffers = {};
    buffers.count = 2;
    buffers.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffers.memory = V4L2_MEMORY_MMAP;
    call(VIDIOC_REQBUFS, &buffers, "asking for buffers");
    for (std::uint32_t i = 0; i < buffers.count; ++i) {
      v4l2_buffer buffer = numbered(i);
      call(VIDIOC_QUERYBUF, &buffer, "asking where a buffer lies");
      void* memory = mmap(nullptr, buffer.length, PROT_READ, MAP_SHARED, device_, buffer.m.offset);
      if (memory == MAP_FAILED) fail("mapping a buffer");
      mapped_.push_back({static_cast<const std::uint8_t*>(memory), buffer.length});
      call(VIDIOC_QBUF, &buffer, "giving a buffer back");
    }
    int type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    call(VIDIOC_STREAMON, &type, "starting");
  }
  ~Camera() override {
    for (const Mapped& one : mapped_) munmap(const_cast<std::uint8_t*>(one.data), one.size);
    if (device_ >= 0) close(device_);
  }
  Camera(const Camera&) = delete;
  Camera& operator=(const Camera&) = delete;

  bool next(Frame& frame) override {
    // What waits in the buffers was seen while the last frame was looked at.
    for (std::size_t i = 0; i <= mapped_.size(); ++i) {
      v4l2_buffer buffer = numbered(0);
      call(VIDIOC_DQBUF, &buffer, "waiting for a frame");
      const Mapped& mapped = mapped_[buffer.index];
      std::memcpy(frame.data(), mapped.data, std::min(frame.size(), mapped.size));
      call(VIDIOC_QBUF, &buffer, "giving a buffer back");
    }
    return true;
  }

 private:
  struct Mapped {
    const std::uint8_t* data;
    std::size_t size;
  };

  static v4l2_buffer numbered(std::uint32_t index) {
    v4l2_buffer buffer = {};
    buffer.type = V4L2_BUF_TYPE_VIDEO_CAPTURE;
    buffer.memory = V4L2_MEMORY_MMAP;
    buffer.index = index;
    return buffer;
  }
  [[noreturn]] static void fail(const std::string& what) {
    throw std::system_error(errno, std::generic_category(), what);
  }
  void call(unsigned long request, void* argument, const std::string& what) const {
    int result = 0;
    do result = ioctl(device_, request, argument);
    while (result < 0 && errno == EINTR);
    if (result < 0) fail(what);
  }

  int device_;
  std::vector<Mapped> mapped_;
};

std::unique_ptr<Source> open_source(const Options& options, std::uint32_t format) {
  struct stat status = {};
  if (stat(options.source.c_str(), &status) == 0 && S_ISCHR(status.st_mode)) {
    return std::make_unique<Camera>(options.source, options, format);
  }
  return std::make_unique<File>(options.source);
}

Options read_options(int argc, char** argv) {
  Options options;
  std::vector<std::string> positional;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (!word.starts_with("--")) {
      positional.push_back(word);
      continue;
    }
    if (i + 1 == argc) throw std::runtime_error(word + " needs a value.");
    const std::string value = argv[++i];
    if (word == "--size") {
      const std::size_t cross = value.find('x');
      if (cross == std::string::npos) throw std::runtime_error("--size is WIDTHxHEIGHT.");
      options.width = std::stol(value.substr(0, cross));
      options.height = std::stol(value.substr(cross + 1));
    } else if (word == "--format") {
      options.format = value;
    } else if (word == "--frames") {
      options.frames = std::stol(value);
    } else if (word == "--tokens") {
      options.tokens = std::stol(value);
    } else {
      throw std::runtime_error("there is no option " + word + ".");
    }
  }
  if (positional.size() != 3) {
    throw std::runtime_error(
        "usage: camera_loop BUNDLE QUESTION SOURCE [--size WxH] [--format rgb|bgr|gray|nv12|yuyv] [--frames "
        "N] "
        "[--tokens N]");
  }
  options.bundle = positional[0];
  options.question = positional[1];
  options.source = positional[2];
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = read_options(argc, argv);
    const auto known = formats.find(options.format);
    if (known == formats.end()) throw std::runtime_error("there is no format " + options.format + ".");
    const Format& format = known->second;
    const std::unique_ptr<Source> source = open_source(options, format.v4l2);
    const internvl::Model model = internvl::Model::load(options.bundle);
    Frame frame(static_cast<std::size_t>(options.width * options.height * format.bits / 8));
    for (long i = 0; i != options.frames && source->next(frame); ++i) {
      const internvl::Image image = format.image(frame.data(), options.width, options.height, 0);
      const internvl::Answer answer =
          model.chat(options.question, {image}, {.max_new_tokens = options.tokens, .max_tiles = 1});
      std::cout << answer.text << std::endl;
      std::cerr << "frame " << i << ": " << answer.timings.total << " ms\n";
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
