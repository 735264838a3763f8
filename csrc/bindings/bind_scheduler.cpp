#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/pixels.h"
#include "bindings/python_constraint.h"
#include "bindings/python_engine.h"
#include "bindings/python_failure.h"
#include "bindings/text.h"
#include "generation/choices.h"
#include "generation/native_engine.h"
#include "generation/scheduler.h"
#include "generation/token_table.h"

namespace internvl::bindings {
namespace {

namespace py = pybind11;

using Floats = py::array_t<float, py::array::c_style>;
using Ids = py::array_t<std::int64_t, py::array::c_style | py::array::forcecast>;

// How long a call waits before it looks whether it was interrupted.
constexpr std::chrono::milliseconds between_signals(50);

void handle_signals() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// Waits with `wait` for as long as it gives nothing, and handles signals on the way.
template <class Wait>
auto wait_for(Wait wait) {
  while (true) {
    {
      const GilRelease release;
      // NOLINTNEXTLINE(misc-const-correctness): it is moved out
      if (auto found = wait(between_signals)) return found;
    }
    handle_signals();
  }
}

template <class Value>
std::span<const Value> span_of(const py::array_t<Value, py::array::c_style>& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

// A request that is cancelled when nobody can read it any more.
class RequestHandle {
 public:
  explicit RequestHandle(std::shared_ptr<Request> request) : request_(std::move(request)) {}
  ~RequestHandle() {
    if (request_ == nullptr) return;
    const GilRelease release;
    request_->cancel();
    request_.reset();
  }
  RequestHandle(RequestHandle&&) = default;
  RequestHandle(const RequestHandle&) = delete;
  RequestHandle& operator=(const RequestHandle&) = delete;
  RequestHandle& operator=(RequestHandle&&) = delete;

  Request& request() const { return *request_; }

 private:
  std::shared_ptr<Request> request_;
};

// Room in the cache; given back at its end.
class Reservation {
 public:
  Reservation(std::shared_ptr<Scheduler> scheduler, std::shared_ptr<Request> request)
      : scheduler_(std::move(scheduler)), request_(std::move(request)) {}
  ~Reservation() { release(); }
  Reservation(Reservation&&) = default;
  Reservation(const Reservation&) = delete;
  Reservation& operator=(const Reservation&) = delete;
  Reservation& operator=(Reservation&&) = delete;

  void enter() {
    wait_for([&](std::chrono::milliseconds wait) { return request_->next(wait); });
  }
  void check_open() const { scheduler_->check_open(); }
  void release() {
    if (scheduler_ == nullptr) return;
    {
      const GilRelease release;
      scheduler_->release(*request_);
      request_.reset();
    }
    scheduler_.reset();
  }

 private:
  std::shared_ptr<Scheduler> scheduler_;
  std::shared_ptr<Request> request_;
};

// Threads of a scheduler may need the GIL to end.
struct WithoutTheGil {
  void operator()(Scheduler* scheduler) const {
    const GilRelease release;
    delete scheduler;
  }
};

// Those that are there: a thread that asks for the GIL of an interpreter that is gone would never end.
struct Made {
  std::weak_ptr<Scheduler> scheduler;
  bool of_python;  // its engine is an object of Python's
};
std::vector<Made>& schedulers() {
  static std::vector<Made> all;
  return all;
}

void close_all() {
  keep_other_threads_in_the_core();
  for (const Made& one : std::exchange(schedulers(), {})) {
    const std::shared_ptr<Scheduler> scheduler = one.scheduler.lock();
    if (scheduler == nullptr) continue;
    const GilRelease release;
    scheduler->end_requests();
    // A thread that computes in a library of Python's comes back from there, and stays in the core then.
    if (one.of_python) scheduler->wait_unused(std::chrono::seconds(2));
  }
}

std::shared_ptr<Scheduler> make_scheduler(const py::object& engine, std::shared_ptr<Tokenizer> tokenizer,
                                          const Manifest& manifest, std::shared_ptr<ThreadTeam> team,
                                          std::size_t context_tokens, std::size_t max_waiting,
                                          double max_wait_s, std::size_t tile_cache_bytes,
                                          int frame_tolerance, std::size_t prefix_cache_tokens) {
  std::shared_ptr<Engine> core;
  const bool of_python = !py::isinstance<NativeEngine>(engine);
  if (!of_python) {
    core = engine.cast<std::shared_ptr<NativeEngine>>();
  } else {
    core = std::make_shared<PythonEngine>(engine, manifest, team);
  }
  const std::chrono::milliseconds max_wait(static_cast<std::int64_t>(std::ceil(max_wait_s * 1000.0)));
  const SchedulerOptions options{context_tokens,   max_waiting,     max_wait,
                                 tile_cache_bytes, frame_tolerance, prefix_cache_tokens};
  std::shared_ptr<Scheduler> scheduler(
      new Scheduler(std::move(core), std::move(tokenizer), manifest, std::move(team), options),
      WithoutTheGil());
  std::erase_if(schedulers(), [](const Made& one) { return one.scheduler.expired(); });
  schedulers().push_back({scheduler, of_python});
  return scheduler;
}

Picture picture_of_pixels(const Pixels& rgb, const TilingOptions& tiling) {
  Picture picture;
  picture.pixels = view_of(rgb);
  picture.tiling = tiling;
  picture.owner = owned_anywhere(rgb);
  return picture;
}

Picture picture_of_features(const Floats& rows, std::vector<std::size_t> tile_tokens) {
  Picture picture;
  picture.features = span_of(rows);
  picture.tile_tokens = std::move(tile_tokens);
  picture.owner = owned_anywhere(rows);
  return picture;
}

AnswerRequest answer_request(std::size_t max_new_tokens, bool do_sample, float temperature,
                             std::int64_t top_k, float top_p, float repetition_penalty, std::uint64_t seed,
                             std::uint64_t index, const py::iterable& stop, KeepTokens keep,
                             bool ignore_stop_tokens, py::object constraint) {
  AnswerRequest request{{max_new_tokens,
                         do_sample,
                         {temperature, top_k, top_p, repetition_penalty},
                         {},
                         keep,
                         ignore_stop_tokens},
                        seed,
                        index,
                        nullptr};
  for (const py::handle& text : stop) request.settings.stop.push_back(utf8_of(text));
  if (py::isinstance<Choices>(constraint)) {
    request.constraint = constraint.cast<std::shared_ptr<Choices>>();
  } else if (!constraint.is_none()) {
    request.constraint = std::make_shared<PythonConstraint>(std::move(constraint));
  }
  return request;
}

RequestHandle submit(Scheduler& scheduler, const Ids& ids, std::vector<Picture> pictures,
                     std::vector<AnswerRequest> answers, const std::optional<Floats>& features,
                     double elapsed_ms, double decode_image_ms, std::size_t tiles, std::size_t tiles_wanted,
                     std::size_t dropped_turns, int priority, const std::string& cache_salt, bool streamed,
                     bool tells_tiles, bool cancelled) {
  Question question;
  question.ids.assign(ids.data(), ids.data() + ids.size());
  question.pictures = std::move(pictures);
  question.answers = std::move(answers);
  if (features) {
    question.features = span_of(*features);
    question.owner = owned_anywhere(*features);
  }
  question.timings.decode_image = decode_image_ms;
  question.usage.tiles = tiles;
  question.usage.tiles_wanted = tiles_wanted;
  question.usage.dropped_turns = dropped_turns;
  question.asked -= std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double, std::milli>(elapsed_ms));
  question.priority = priority;
  question.cache_salt = cache_salt;
  question.streamed = streamed;
  question.tells_tiles = tells_tiles;
  question.cancelled = cancelled;
  const GilRelease release;
  return RequestHandle(scheduler.submit(std::move(question)));
}

py::object object_of(Event event) {
  return std::visit([](auto& one) { return py::cast(std::move(one)); }, event);
}

std::string_view name_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      break;
  }
  return "cancelled";
}

py::tuple tuple_of(const std::vector<std::int64_t>& ids) {
  py::tuple made(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) made[i] = ids[i];
  return made;
}

// An array that keeps the picture's memory.
py::array_t<float> features_of(const py::object& self) {
  const auto& picture = self.cast<const EncodedPicture&>();
  const std::size_t tiles = picture.tiles();
  return py::array_t<float>(static_cast<py::ssize_t>(picture.features.size()), picture.features.data(), self)
      .reshape({static_cast<py::ssize_t>(tiles), static_cast<py::ssize_t>(picture.tokens_per_tile),
                static_cast<py::ssize_t>(-1)});
}

void register_results(py::module_& module) {
  py::class_<Timings>(module, "Timings")
      .def_readonly("decode_image", &Timings::decode_image)
      .def_readonly("tile", &Timings::tile)
      .def_readonly("vit", &Timings::vit)
      .def_readonly("projector", &Timings::projector)
      .def_readonly("prefill", &Timings::prefill)
      .def_readonly("first_token", &Timings::first_token)
      .def_readonly("per_token", &Timings::per_token)
      .def_readonly("total", &Timings::total);
  py::class_<Usage>(module, "Usage")
      .def_readonly("tiles", &Usage::tiles)
      .def_readonly("tiles_wanted", &Usage::tiles_wanted)
      .def_readonly("cached_tiles", &Usage::cached_tiles)
      .def_readonly("image_tokens", &Usage::image_tokens)
      .def_readonly("prompt_tokens", &Usage::prompt_tokens)
      .def_readonly("reused_tokens", &Usage::reused_tokens)
      .def_readonly("dropped_turns", &Usage::dropped_turns)
      .def_readonly("new_tokens", &Usage::new_tokens)
      .def_readonly("forced_tokens", &Usage::forced_tokens);
  py::class_<Answer>(module, "Answer")
      .def_property_readonly("text", [](const Answer& answer) { return str_of(answer.text); })
      .def_property_readonly("token_ids", [](const Answer& answer) { return tuple_of(answer.token_ids); })
      .def_property_readonly("finish_reason",
                             [](const Answer& answer) { return name_of(answer.finish_reason); })
      .def_readonly("timings", &Answer::timings)
      .def_readonly("usage", &Answer::usage)
      .def_property_readonly("grounding_text",
                             [](const Answer& answer) { return str_of(answer.grounding_text); });
  py::class_<EncodedPicture>(module, "EncodedPicture")
      .def_property_readonly("features", &features_of)
      .def_readonly("tile_tokens", &EncodedPicture::tile_tokens)
      .def_property_readonly("grid", [](const EncodedPicture& picture) {
        return std::make_pair(picture.grid.columns, picture.grid.rows);
      });
  py::class_<TilesEncoded>(module, "TilesEncoded").def_readonly("tiles", &TilesEncoded::tiles);
  py::class_<Piece>(module, "Piece")
      .def_property_readonly("text", [](const Piece& piece) { return str_of(piece.text); })
      .def_property_readonly("token_ids", [](const Piece& piece) { return tuple_of(piece.token_ids); });
  py::class_<Ended>(module, "Ended").def_readonly("rest", &Ended::rest);
}

void register_choices(py::module_& module) {
  py::class_<TokenTable, std::shared_ptr<TokenTable>>(module, "TokenTable")
      .def(py::init([](const Tokenizer& tokenizer, std::size_t vocab_size) {
             const GilRelease release;
             return std::make_shared<TokenTable>(tokenizer, vocab_size);
           }),
           py::arg("tokenizer"), py::arg("vocab_size"))
      .def_property_readonly("bytes",
                             [](const TokenTable& table) {
                               py::list all;
                               for (const std::string& bytes : table.bytes()) all.append(py::bytes(bytes));
                               return all;
                             })
      .def_property_readonly("special_ids", [](const TokenTable& table) {
        const auto ids = table.special_ids();
        return std::vector<std::int64_t>(ids.begin(), ids.end());
      });
  py::class_<Choices, std::shared_ptr<Choices>>(module, "Choices")
      .def(py::init([](std::shared_ptr<Tokenizer> tokenizer, std::shared_ptr<TokenTable> table,
                       const py::iterable& texts, std::vector<std::int64_t> stop_ids) {
             std::vector<std::string> choices;
             for (const py::handle& text : texts) choices.push_back(utf8_of(text));
             return std::make_shared<Choices>(std::move(tokenizer), std::move(table), choices,
                                              std::move(stop_ids));
           }),
           py::arg("tokenizer").none(false), py::arg("table").none(false), py::arg("texts"),
           py::arg("stop_ids"))
      .def("allowed",
           [](Choices& choices) {
             const auto bits = choices.allowed();
             return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(bits.size()), bits.data());
           })
      .def("forced", &Choices::forced)
      .def("take", &Choices::take, py::arg("token"))
      .def("complete", &Choices::complete);
}

void register_request(py::module_& module) {
  py::class_<Picture>(module, "Picture")
      .def_static("of_pixels", &picture_of_pixels, py::arg("rgb").noconvert(), py::arg("tiling"))
      .def_static("of_features", &picture_of_features, py::arg("rows").noconvert(), py::arg("tile_tokens"));
  py::class_<AnswerRequest>(module, "AnswerRequest")
      .def(py::init([](std::size_t max_new_tokens, bool do_sample, float temperature, std::int64_t top_k,
                       float top_p, float repetition_penalty, std::uint64_t seed, std::uint64_t index,
                       const py::iterable& stop, std::string_view keep_special_tokens,
                       bool ignore_stop_tokens, py::object constraint) {
             return answer_request(max_new_tokens, do_sample, temperature, top_k, top_p, repetition_penalty,
                                   seed, index, stop, keep_of(keep_special_tokens), ignore_stop_tokens,
                                   std::move(constraint));
           }),
           py::kw_only(), py::arg("max_new_tokens"), py::arg("do_sample"), py::arg("temperature"),
           py::arg("top_k"), py::arg("top_p"), py::arg("repetition_penalty"), py::arg("seed"),
           py::arg("index"), py::arg("stop"), py::arg("keep_special_tokens"), py::arg("ignore_stop_tokens"),
           py::arg("constraint") = py::none());
  py::class_<RequestHandle>(module, "Request")
      .def("next",
           [](const RequestHandle& handle) {
             Request& request = handle.request();
             return object_of(*wait_for([&](std::chrono::milliseconds wait) { return request.next(wait); }));
           })
      .def("poll",
           [](const RequestHandle& handle) -> py::object {
             std::optional<Event> event;
             {
               const GilRelease release;
               event = handle.request().next(std::chrono::milliseconds(0));
             }
             return event ? object_of(std::move(*event)) : py::none();
           })
      .def_property_readonly("answers",
                             [](const RequestHandle& handle) { return handle.request().answers(); })
      .def("take_pictures",
           [](const RequestHandle& handle) { return std::move(handle.request().pictures()); })
      .def_property_readonly("timings",
                             [](const RequestHandle& handle) { return handle.request().timings(); })
      .def(
          "cancel", [](const RequestHandle& handle) { handle.request().cancel(); },
          py::call_guard<GilRelease>())
      .def("abandon",
           [](const RequestHandle& handle) {
             Request& request = handle.request();
             {
               const GilRelease release;
               request.cancel();
             }
             wait_for([&](std::chrono::milliseconds wait) { return request.wait_ended(wait); });
           })
      .def(
          "set_event_fd", [](const RequestHandle& handle, int fd) { handle.request().set_event_fd(fd); },
          py::arg("fd"));
  py::class_<Reservation>(module, "Reservation")
      .def("check_open", &Reservation::check_open)
      .def("__enter__",
           [](const py::object& self) {
             self.cast<Reservation&>().enter();
             return self;
           })
      .def("__exit__", [](Reservation& reservation, const py::args&) { reservation.release(); });
}

}  // namespace

void register_scheduler(py::module_& module) {
  module.def(
      "without_spare_places",
      [](const Ids& ids, std::int64_t image_context_id, std::size_t tokens_per_tile,
         const std::vector<std::size_t>& tile_tokens) {
        std::vector<std::int64_t> kept(ids.data(), ids.data() + ids.size());
        remove_spare_places(kept, image_context_id, tokens_per_tile, tile_tokens);
        return Ids(static_cast<py::ssize_t>(kept.size()), kept.data());
      },
      py::arg("ids"), py::kw_only(), py::arg("image_context_id"), py::arg("tokens_per_tile"),
      py::arg("tile_tokens"));
  register_results(module);
  register_choices(module);
  register_request(module);
  py::class_<Scheduler, std::shared_ptr<Scheduler>>(module, "Scheduler")
      .def(py::init(&make_scheduler), py::arg("engine"), py::arg("tokenizer").none(false),
           py::arg("manifest"), py::arg("team").none(false), py::kw_only(), py::arg("context_tokens"),
           py::arg("max_waiting"), py::arg("max_wait_s"), py::arg("tile_cache_bytes") = 0,
           py::arg("frame_tolerance") = 0, py::arg("prefix_cache_tokens") = 0)
      .def("submit", &submit, py::arg("ids"), py::arg("pictures"), py::arg("answers"), py::kw_only(),
           py::arg("features") = py::none(), py::arg("elapsed_ms") = 0.0, py::arg("decode_image_ms") = 0.0,
           py::arg("tiles") = 0, py::arg("tiles_wanted") = 0, py::arg("dropped_turns") = 0,
           py::arg("priority") = 0, py::arg("cache_salt") = "", py::arg("streamed") = false,
           py::arg("tells_tiles") = false, py::arg("cancelled") = false)
      .def(
          "reserve",
          [](const std::shared_ptr<Scheduler>& scheduler, std::size_t tokens) {
            const GilRelease release;
            return Reservation(scheduler, scheduler->reserve(tokens));
          },
          py::arg("tokens"))
      .def("cut", &Scheduler::cut, py::arg("picture"), py::arg("salt"), py::call_guard<GilRelease>())
      .def_property_readonly("waiting", &Scheduler::waiting)
      .def("check_open", &Scheduler::check_open, py::call_guard<GilRelease>())
      .def("close", &Scheduler::close, py::call_guard<GilRelease>());
  py::module_::import("atexit").attr("register")(py::cpp_function(&close_all));
}

}  // namespace internvl::bindings
