/* The library's ABI: C99, stable within a major version. C++ programs include <internvl/model.h> instead.
 *
 * Functions that can fail return a status; where it is not INTERNVL_OK, internvl_error_message() says what
 * was wrong, what was expected and what to do, and results were not written. A call that fails leaves
 * everything usable. Nothing prints or aborts.
 *
 * Structures begin with their size, so that later versions may add members at their ends. Those that are
 * given are filled in by their _init function first; of those that are written to, the caller sets `size`, by
 * INTERNVL_SIZED for example:
 *
 *     internvl_ask_options options;
 *     internvl_ask_options_init(&options, sizeof options);
 *     internvl_answer answer = INTERNVL_SIZED(internvl_answer);
 *
 * Texts are UTF-8; what is not becomes U+FFFD. Those without a length end with a zero.
 */
#ifndef INTERNVL_C_H
#define INTERNVL_C_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define INTERNVL_API __attribute__((visibility("default")))
#else
#define INTERNVL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define INTERNVL_SIZED(type) {.size = sizeof(type)}

/* The version of the library, such as "1.2.3". */
INTERNVL_API const char* internvl_version(void);

typedef enum internvl_status {
  INTERNVL_OK = 0,
  INTERNVL_ERROR = 1,            /* anything that is none of the following */
  INTERNVL_BUNDLE_ERROR = 2,     /* a bundle that is incomplete, altered, or of another format version */
  INTERNVL_IMAGE_ERROR = 3,      /* a picture whose size or layout is not taken */
  INTERNVL_PROMPT_ERROR = 4,     /* a question or an option that does not fit the model */
  INTERNVL_DEVICE_ERROR = 5,     /* what this machine lacks: memory, threads, instructions */
  INTERNVL_CACHE_FULL_ERROR = 6, /* the KV cache has no room; whatever is running keeps running */
  INTERNVL_BUSY_ERROR = 7,       /* too many requests wait already */
  INTERNVL_CLOSED_ERROR = 8      /* the model was closed */
} internvl_status;

/* What the last call of this thread that failed says. Valid until the thread's next call that fails. */
INTERNVL_API const char* internvl_error_message(void);

/* ---- Models ---- */

/* A bundle in memory. May be used from several threads. */
typedef struct internvl_model internvl_model;

typedef struct internvl_load_options {
  size_t size;
  int64_t threads;        /* that compute; 0: one for each physical core that may be used */
  int64_t cache_tokens;   /* of the KV cache, all answers together; 0: by the model and the memory at hand */
  const char* cache_type; /* how it is stored: "float32", "float16", "bfloat16", "int8"; NULL: by the model */
  int64_t max_context;    /* tokens of one prompt and its answer; 0: the cache's, or the trained length */
  int64_t max_waiting;    /* requests that wait at most before one is refused; 256 */
  double max_wait_s;      /* how long a request waits for room in the cache, in seconds; 300 */
  int32_t verify;         /* not 0: the SHA-256 of the weights is checked, which reads the whole file */
  int32_t frame_tolerance; /* 0 to 255; 0: a tile is known again if its pixels are equal. Else also if none of
                            * them differs by more from the tile that was encoded at its place in one of the
                            * last four pictures of the same grid: answers then depend on those; 0 */
  /* What the features of tiles may take that are kept for pictures that show them again. 0: none are kept;
   * -1: two pictures of the model's most tiles, 64 MB at least, and a sixteenth of the memory at hand at
   * most.
   */
  int64_t tile_cache_bytes;
  /* Of the KV cache, what may keep what was computed for requests that are over: one whose prompt begins as
   * theirs did, pictures included, does not compute it again. Whatever a request needs it gets. 0: nothing is
   * kept; -1: all of the cache.
   */
  int64_t prefix_cache_tokens;
} internvl_load_options;

INTERNVL_API void internvl_load_options_init(internvl_load_options* options, size_t size);

/* Loads the bundle in a folder. `options` may be NULL. */
INTERNVL_API internvl_status internvl_model_load(const char* folder, const internvl_load_options* options,
                                                 internvl_model** model);

/* Ends all requests of the model with INTERNVL_CLOSED_ERROR. Calling it twice is fine. */
INTERNVL_API internvl_status internvl_model_close(internvl_model* model);

/* Closes it and frees its memory. No other call may be using it. NULL is fine. */
INTERNVL_API void internvl_model_free(internvl_model* model);

typedef struct internvl_model_info {
  size_t size;
  const char* name;         /* of the checkpoint; valid as long as the model */
  int64_t cache_tokens;     /* of the KV cache, all answers together */
  int64_t context_tokens;   /* that one prompt and its answer may have */
  int64_t tile_cache_bytes; /* at most, for the features of tiles */
} internvl_model_info;

INTERNVL_API internvl_status internvl_model_get_info(const internvl_model* model, internvl_model_info* info);

/* ---- Pictures ---- */

/* A pair of U and V holds for all pixels that share it. */
typedef enum internvl_pixel_format {
  INTERNVL_RGB = 0,
  INTERNVL_BGR = 1,
  INTERNVL_RGBA = 2, /* the fourth byte is not looked at */
  INTERNVL_BGRA = 3,
  INTERNVL_GRAY = 4,
  INTERNVL_NV12 = 5, /* a plane of Y, and one of U and V in turn for every two by two pixels */
  INTERNVL_YUYV = 6, /* Y U Y V for every two pixels */
  INTERNVL_I420 = 7  /* a plane of Y, one of U and one of V, a value of these for every two by two pixels */
} internvl_pixel_format;

typedef enum internvl_yuv_matrix {
  INTERNVL_BT601 = 0, /* as webcams have it */
  INTERNVL_BT709 = 1  /* as HD video has it */
} internvl_yuv_matrix;

typedef enum internvl_yuv_range {
  INTERNVL_LIMITED_RANGE = 0, /* Y from 16 to 235, U and V from 16 to 240 */
  INTERNVL_FULL_RANGE = 1     /* all of them from 0 to 255 */
} internvl_yuv_range;

/* 8 bits a channel, rows from the top. Only looked at while it is added to a question. */
typedef struct internvl_image {
  size_t size;
  const uint8_t* data;
  int64_t width; /* pixels */
  int64_t height;
  int64_t stride;          /* bytes from row to row; 0: they follow one another */
  const uint8_t* chroma;   /* the second plane of NV12 or I420; NULL: behind the rows of the first */
  int64_t chroma_stride;   /* 0: as `stride`; of I420 half of it, rounded up */
  int32_t format;          /* an internvl_pixel_format */
  int32_t yuv_matrix;      /* an internvl_yuv_matrix */
  const uint8_t* chroma_v; /* the third plane of I420; NULL: behind the rows of the second */
  int32_t yuv_range;       /* an internvl_yuv_range */
  int32_t reserved;
} internvl_image;

/* How closely pictures are looked at. Those of one question share the tiles of AUTO and HIGH. */
typedef enum internvl_detail {
  INTERNVL_DETAIL_AUTO = 0,  /* the model's own number of tiles: 12 in the published checkpoints */
  INTERNVL_DETAIL_LOW = 1,   /* one tile each */
  INTERNVL_DETAIL_HIGH = 2,  /* 40 tiles */
  INTERNVL_DETAIL_UNSAID = 3 /* of an item of a message: as the question's */
} internvl_detail;

/* ---- Questions ---- */

/* What is asked: either a text, with images, earlier rounds and a system message; or messages. Not for
 * several threads at once, but it may be asked many times. */
typedef struct internvl_question internvl_question;

INTERNVL_API internvl_status internvl_question_new(internvl_question** question);
INTERNVL_API void internvl_question_free(internvl_question* question);

/* A text, in which <image> marks the place of an image. A single text without marks has its images in front.
 */
INTERNVL_API internvl_status internvl_question_set_text(internvl_question* question, const char* text,
                                                        size_t length);
/* Converts an image and adds it, in the order of the places, those of earlier rounds first. */
INTERNVL_API internvl_status internvl_question_add_image(internvl_question* question,
                                                         const internvl_image* image);
/* An earlier round of the conversation. */
INTERNVL_API internvl_status internvl_question_add_round(internvl_question* question, const char* asked,
                                                         size_t asked_length, const char* answered,
                                                         size_t answered_length);
/* Replaces the system message of the model. */
INTERNVL_API internvl_status internvl_question_set_system(internvl_question* question, const char* text,
                                                          size_t length);

/* Messages: an optional one of "system", then "user" and "assistant" in turn, the last one the user's. Each
 * begins here and has the items that are added behind. */
INTERNVL_API internvl_status internvl_question_begin_message(internvl_question* question, const char* role);
INTERNVL_API internvl_status internvl_question_add_text_item(internvl_question* question, const char* text,
                                                             size_t length);
/* `detail`: an internvl_detail. */
INTERNVL_API internvl_status internvl_question_add_image_item(internvl_question* question,
                                                              const internvl_image* image, int32_t detail);

/* ---- Answers ---- */

typedef enum internvl_special_tokens {
  INTERNVL_KEEP_NONE = 0,
  INTERNVL_KEEP_GROUNDING = 1, /* <ref> <box> <quad> and their ends */
  INTERNVL_KEEP_TASK = 2,      /* these, and those that a fine-tuning added */
  INTERNVL_KEEP_ALL = 3
} internvl_special_tokens;

typedef struct internvl_ask_options {
  size_t size;
  int64_t max_new_tokens;    /* the answer ends here at the latest; 1024 */
  int32_t do_sample;         /* not 0: tokens are drawn; else the likeliest is taken */
  int32_t has_seed;          /* not 0: `seed` is given; else every call has a new one */
  uint64_t seed;             /* the same seed, prompt and options draw the same answer */
  double temperature;        /* below 1 the likely tokens get likelier; 0 takes the likeliest; 1 */
  double top_p;              /* draws from the likeliest tokens that have this probability together; 1 */
  int64_t top_k;             /* draws from this many likeliest tokens; 0: from all; 50 */
  double repetition_penalty; /* above 1, tokens that the answer has already get less likely; 1 */
  const char* const* stop;   /* texts that end the answer; they are not part of it */
  size_t stop_count;
  const char* const* choices; /* the answer is one of these texts */
  size_t choices_count;
  int32_t keep_special_tokens; /* in the text: an internvl_special_tokens */
  int32_t ignore_stop_tokens;  /* not 0: goes on to max_new_tokens, for measuring */
  int64_t max_tiles; /* the most tiles of every picture, 1 to 40, its thumbnail not counted; 0: by */
  int32_t detail;    /* an internvl_detail; fewer tiles where the prompt would not fit */
  int32_t as_one;    /* not 0: all images stand in one place, as if they were one picture */
  int64_t answers;   /* so many, of one prompt: needs do_sample if it is more than 1; 1 */
  int32_t priority;  /* of requests that wait, higher ones come first: -1000 to 1000; 0 */
  int32_t streamed;  /* not 0: internvl_request_next() gives the one answer in pieces */
  /* What is computed for this request is reused for requests with the same salt only. Give every user one of
   * their own where they must not learn from the time of an answer what others have asked; NULL */
  const char* cache_salt;
  size_t cache_salt_length; /* bytes */
} internvl_ask_options;

INTERNVL_API void internvl_ask_options_init(internvl_ask_options* options, size_t size);

/* A question that is being answered. One thread reads it; any may cancel it. */
typedef struct internvl_request internvl_request;

/* Begins to answer. `options` may be NULL. The question may be freed or asked again at once. */
INTERNVL_API internvl_status internvl_model_ask(internvl_model* model, const internvl_question* question,
                                                const internvl_ask_options* options,
                                                internvl_request** request);

typedef struct internvl_piece {
  size_t size;
  const char* text;         /* whole characters, often none; valid until the next call */
  size_t text_length;       /* bytes */
  const int64_t* token_ids; /* valid until the next call */
  size_t token_count;
  int32_t last; /* not 0: the answers are there */
} internvl_piece;

/* Waits for the next piece of a streamed answer. Of others, and behind the last one, there is one empty last
 * piece. The answer is written at most 64 tokens ahead of its reader. */
INTERNVL_API internvl_status internvl_request_next(internvl_request* request, internvl_piece* piece);

/* Waits for the answers. */
INTERNVL_API internvl_status internvl_request_wait(internvl_request* request);

/* Ends it early, at its next step: what was written so far is the answer. From any thread. */
INTERNVL_API void internvl_request_cancel(internvl_request* request);

/* Ends it if it has not ended, and frees its answers. NULL is fine. */
INTERNVL_API void internvl_request_free(internvl_request* request);

typedef enum internvl_finish_reason {
  INTERNVL_STOP = 0,   /* the model ended the answer, or a stop text or the end of its form did */
  INTERNVL_LENGTH = 1, /* max_new_tokens, or the end of the context */
  INTERNVL_CANCELLED = 2
} internvl_finish_reason;

/* Pointers are valid as long as the request. Times are milliseconds of wall-clock time. */
typedef struct internvl_answer {
  size_t size;
  const char* text;
  size_t text_length;         /* bytes */
  const char* grounding_text; /* with <ref> and <box> kept */
  size_t grounding_text_length;
  const int64_t* token_ids; /* without the stop token */
  size_t token_count;
  int32_t finish_reason; /* an internvl_finish_reason */
  int32_t reserved;
  int64_t tiles;          /* of all pictures, thumbnails included */
  int64_t tiles_wanted;   /* more than that where they did not fit the context */
  int64_t image_tokens;   /* prompt tokens that stand for pictures */
  int64_t prompt_tokens;  /* image tokens included */
  int64_t new_tokens;     /* without the stop token */
  int64_t forced_tokens;  /* of them, those that `choices` left no choice about */
  double decode_image_ms; /* converting pixels to RGB */
  double tile_ms;         /* resizing and cutting */
  double vit_ms;          /* the vision tower */
  double projector_ms;    /* pixel shuffle included */
  double prefill_ms;      /* the prompt */
  double first_token_ms;  /* from the call to the first token */
  double per_token_ms;    /* mean of every token after the first */
  double total_ms;        /* from the call to the finished answer */
  int64_t cached_tiles;   /* of the tiles, those whose features were kept from an earlier picture */
  int64_t reused_tokens;  /* of the prompt, those that an earlier request had computed */
  int64_t dropped_turns;  /* of a session, those that did not fit the context any more */
} internvl_answer;

/* An answer by its index, after the last piece. */
INTERNVL_API internvl_status internvl_request_get_answer(const internvl_request* request, size_t index,
                                                         internvl_answer* answer);

/* ---- Sessions ---- */

/* A conversation that goes on from one question to the next. What was computed for a question stays in the KV
 * cache, so that the next one computes only what it adds; where others need the room, it is computed again,
 * and the answers are the same. The tokens of an answer stay as they were generated, and pictures as they
 * were cut into tiles.
 *
 * Where the conversation does not fit the context any more, its oldest questions are left out with their
 * answers; the one with the newest picture is the last to go, and the system message stays.
 *
 * May be used from several threads, but it answers one question at a time; a fork is a branch to ask beside.
 * It may outlive the model, whose end it then tells by INTERNVL_CLOSED_ERROR. */
typedef struct internvl_session internvl_session;

/* Asks nothing yet. `system` replaces the system message of the model; NULL leaves it. */
INTERNVL_API internvl_status internvl_session_begin(internvl_model* model, const char* system, size_t length,
                                                    internvl_session** session);

/* Begins to answer the next question, as internvl_model_ask(): a text or one message of the user, with one
 * answer. INTERNVL_PROMPT_ERROR while another question is being answered: until its last piece was read, or
 * its request was freed.
 *
 * A question that fails, or whose request is freed before its last piece was read, is not part of the
 * conversation; one that is cancelled is, with what was written of its answer. */
INTERNVL_API internvl_status internvl_session_ask(internvl_session* session,
                                                  const internvl_question* question,
                                                  const internvl_ask_options* options,
                                                  internvl_request** request);

/* A branch: a session that goes on from the same conversation, independently of this one.
 * INTERNVL_PROMPT_ERROR while a question is being answered. */
INTERNVL_API internvl_status internvl_session_fork(const internvl_session* session,
                                                   internvl_session** branch);

/* Ends the conversation, and the answer that is being written. Calling it twice is fine. */
INTERNVL_API internvl_status internvl_session_close(internvl_session* session);

/* Frees it; an answer that is being written goes on. No other call may be using it. NULL is fine. */
INTERNVL_API void internvl_session_free(internvl_session* session);

#ifdef __cplusplus
}
#endif

#endif
