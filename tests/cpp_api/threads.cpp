// Calls one model from several threads at once, cancels and closes it while they do. Built with the thread
// sanitizer too. Ends with 0 if all answers are those that the model gives alone.
//
//   threads BUNDLE PICTURE.rgb WIDTH HEIGHT
#include <internvl/model.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <latch>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

using internvl::Answer;
using internvl::AskOptions;
using internvl::Image;
using internvl::Model;
using internvl::Stream;

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(what);
}

// Threads whose first exception is thrown again where they are joined.
class Threads {
 public:
  void start(std::function<void()> work) {
    threads_.emplace_back([this, work = std::move(work)] {
      try {
        work();
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (failure_ == nullptr) failure_ = std::current_exception();
      }
    });
  }
  void join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  }

 private:
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::exception_ptr failure_;
};

std::string read_whole(Stream stream) {
  std::string text;
  while (const auto piece = stream.next()) text += piece->text;
  return text;
}

// Every kind of call beside every other one.
void check_answers(const Model& model, const Image& picture) {
  const AskOptions plain{.max_new_tokens = 16, .max_tiles = 2};
  const AskOptions choice{.choices = {"yes", "no", "perhaps"}, .max_tiles = 1};
  const AskOptions drawn{.max_new_tokens = 6, .do_sample = true, .temperature = 1.5, .seed = 7};
  const AskOptions endless{.max_new_tokens = 400, .ignore_stop_tokens = true};
  const std::string seen = model.chat("What is on the table?", {picture}, plain).text;
  const std::string chosen = model.chat("Is there a ball?", {picture}, choice).text;
  const std::vector<Answer> several = model.answers("Hello", {}, 3, drawn);

  Threads threads;
  for (int i = 0; i < 2; ++i) {
    threads.start([&] {
      require(model.chat("What is on the table?", {picture}, plain).text == seen, "another answer");
    });
    threads.start([&] {
      require(read_whole(model.stream("What is on the table?", {picture}, plain)) == seen, "another stream");
    });
    threads.start(
        [&] { require(model.chat("Is there a ball?", {picture}, choice).text == chosen, "another choice"); });
    threads.start([&] {
      const std::vector<Answer> again = model.answers("Hello", {}, 3, drawn);
      for (std::size_t n = 0; n < 3; ++n) require(again[n].text == several[n].text, "another draw");
    });
    threads.start([&] {
      Stream stream = model.stream("Hello", {}, endless);
      stream.next();
      std::thread canceller([&] { stream.cancel(); });
      while (stream.next()) {
      }
      canceller.join();
      require(stream.answer()->finish_reason == internvl::FinishReason::cancelled, "nothing was cancelled");
    });
    threads.start([&] { Stream(model.stream("Hello", {picture}, endless)).next(); });  // and forgotten
    threads.start([&] {
      try {
        model.chat("<image>");
      } catch (const internvl::PromptError&) {
        return;
      }
      throw std::runtime_error("a question without its picture was answered");
    });
  }
  threads.join();
}

// Questions to one session, of which one at a time is taken; branches and closing beside them.
void check_session(const Model& model, const Image& picture) {
  const AskOptions brief{.max_new_tokens = 6, .ignore_stop_tokens = true, .max_tiles = 1};
  internvl::Session session = model.session();
  session.ask("What is on the table?", {picture}, brief);
  const Answer next = session.fork().ask("And what else?", {}, brief);
  std::atomic<int> first = 0;
  Threads threads;
  for (int i = 0; i < 4; ++i) {
    threads.start([&] {
      try {
        internvl::Session branch = session.fork();
        require(branch.ask("And what else?", {}, brief).usage.new_tokens == 6, "no answer in a branch");
      } catch (const internvl::PromptError&) {
      }
      try {
        const Answer answer = session.ask("And what else?", {}, brief);
        if (answer.usage.prompt_tokens != next.usage.prompt_tokens) return;
        ++first;
        require(answer.text == next.text, "another answer");
      } catch (const internvl::PromptError&) {
      }
    });
  }
  threads.join();
  require(first == 1, "a turn was asked twice, or none was");
  internvl::Session closing = model.session();
  threads.start([&] {
    try {
      closing.ask("Hello", {}, {.max_new_tokens = 400, .ignore_stop_tokens = true});
    } catch (const internvl::PromptError&) {
    }
  });
  threads.start([&] { closing.close(); });
  threads.join();
}

// Calls that run, wait and come later end with ClosedError; nothing else happens to them.
void check_closing(const std::string& bundle, const Image& picture) {
  const Model model = Model::load(bundle, {.threads = 2, .cache_tokens = 2048});
  const AskOptions endless{.max_new_tokens = 1500, .ignore_stop_tokens = true};
  std::atomic<int> closed = 0;
  std::latch begun(3);
  Threads threads;
  for (int i = 0; i < 6; ++i) {
    threads.start([&, i] {
      try {
        if (i % 2 == 0) {
          Stream stream = model.stream("Hello", {}, endless);
          stream.next();
          begun.count_down();
          while (stream.next()) {
          }
        } else {
          model.chat("What is on the table?", {picture}, endless);
        }
      } catch (const internvl::ClosedError&) {
        ++closed;
      }
    });
  }
  threads.start([&] {
    begun.wait();
    model.close();
  });
  threads.start([&] {
    begun.wait();
    model.close();
  });
  threads.join();
  require(closed == 6, "a call went on in a closed model");
}

}  // namespace

int main(int, char** argv) {
  try {
    std::ifstream file(argv[2], std::ios::binary);
    const std::vector<std::uint8_t> pixels(std::istreambuf_iterator<char>(file), {});
    const Image picture = Image::rgb(pixels.data(), std::stol(argv[3]), std::stol(argv[4]));
    {
      const Model model = Model::load(argv[1], {.threads = 2, .cache_tokens = 2048});
      check_answers(model, picture);
      check_session(model, picture);
    }
    check_closing(argv[1], picture);
  } catch (const std::exception& error) {
    std::cerr << "FAILED: " << error.what() << "\n";
    return 1;
  }
}
