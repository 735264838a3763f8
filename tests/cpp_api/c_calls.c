/* What a program in C sees: statuses, messages and structures of other sizes. Ends with 0 if all of it holds.
 *
 *   c_calls BUNDLE
 */
#include <internvl/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      printf("line %d: %s\n%s\n", __LINE__, #condition, internvl_error_message()); \
      return 1;                                                                    \
    }                                                                              \
  } while (0)

static int says(const char* words) { return strstr(internvl_error_message(), words) != NULL; }

int main(int argc, char** argv) {
  internvl_load_options load;
  internvl_ask_options ask;
  internvl_model* model = NULL;
  internvl_question* question = NULL;
  internvl_request* request = NULL;
  internvl_session* session = NULL;
  internvl_session* branch = NULL;
  internvl_model_info info = INTERNVL_SIZED(internvl_model_info);
  internvl_answer answer = INTERNVL_SIZED(internvl_answer);
  internvl_piece piece = INTERNVL_SIZED(internvl_piece);
  internvl_image image = INTERNVL_SIZED(internvl_image);
  unsigned char pixels[12] = {0};
  char* text;
  size_t length = 0;

  if (argc != 2) return 2;
  CHECK(strcmp(internvl_version(), "") != 0);
  CHECK(internvl_model_load("/nowhere", NULL, &model) == INTERNVL_BUNDLE_ERROR && says("/nowhere"));
  CHECK(says("there is no such folder. The command `internvl-rt export"));
  CHECK(model == NULL);
  CHECK(internvl_model_load(NULL, NULL, &model) == INTERNVL_ERROR && says("NULL"));

  internvl_load_options_init(&load, sizeof load);
  load.cache_type = "float8";
  CHECK(internvl_model_load(argv[1], &load, &model) == INTERNVL_PROMPT_ERROR && says("float8"));
  internvl_load_options_init(&load, sizeof load);
  load.size = sizeof load + 8;
  CHECK(internvl_model_load(argv[1], &load, &model) == INTERNVL_ERROR && says("version"));
  internvl_load_options_init(&load, sizeof load);
  load.tile_cache_bytes = -2;
  CHECK(internvl_model_load(argv[1], &load, &model) == INTERNVL_PROMPT_ERROR && says("tile_cache_bytes"));
  internvl_load_options_init(&load, sizeof load);
  load.threads = 2;
  load.cache_tokens = 2048;
  /* An older program knows fewer members: those behind are as they are by default. */
  load.size = offsetof(internvl_load_options, cache_type);
  load.cache_type = "not looked at";
  CHECK(internvl_model_load(argv[1], &load, &model) == INTERNVL_OK);
  CHECK(internvl_model_get_info(model, &info) == INTERNVL_OK);
  CHECK(info.cache_tokens == 2048 && info.context_tokens > 0 && info.name[0] != '\0');
  CHECK(info.tile_cache_bytes > 0);
  info.size = offsetof(internvl_model_info, context_tokens);
  info.context_tokens = -7;
  CHECK(internvl_model_get_info(model, &info) == INTERNVL_OK && info.context_tokens == -7);
  info.size = 1000;
  CHECK(internvl_model_get_info(model, &info) == INTERNVL_ERROR);

  CHECK(internvl_question_new(&question) == INTERNVL_OK);
  CHECK(internvl_model_ask(model, question, NULL, &request) == INTERNVL_PROMPT_ERROR && says("neither"));
  CHECK(internvl_question_add_text_item(question, "x", 1) == INTERNVL_PROMPT_ERROR);
  CHECK(internvl_question_set_text(question, "What is on the table?", 21) == INTERNVL_OK);
  CHECK(internvl_question_add_image(question, &image) == INTERNVL_IMAGE_ERROR && says("no data"));
  image.data = pixels;
  image.width = 2;
  image.height = 2;
  image.format = 99;
  CHECK(internvl_question_add_image(question, &image) == INTERNVL_IMAGE_ERROR && says("99"));
  image.format = INTERNVL_I420;
  image.yuv_matrix = 2;
  CHECK(internvl_question_add_image(question, &image) == INTERNVL_IMAGE_ERROR && says("matrix"));
  image.yuv_matrix = INTERNVL_BT709;
  image.yuv_range = -1;
  CHECK(internvl_question_add_image(question, &image) == INTERNVL_IMAGE_ERROR && says("range"));
  image.yuv_range = INTERNVL_FULL_RANGE;
  image.format = INTERNVL_RGB;
  CHECK(internvl_question_add_image(question, &image) == INTERNVL_OK);

  internvl_ask_options_init(&ask, sizeof ask);
  ask.detail = 17;
  CHECK(internvl_model_ask(model, question, &ask, &request) == INTERNVL_PROMPT_ERROR && says("detail"));
  internvl_ask_options_init(&ask, sizeof ask);
  ask.max_new_tokens = 6;
  ask.ignore_stop_tokens = 1;
  ask.streamed = 1;
  CHECK(internvl_model_ask(model, question, &ask, &request) == INTERNVL_OK);
  internvl_question_free(question);
  CHECK(internvl_request_get_answer(request, 0, &answer) == INTERNVL_ERROR && says("not there yet"));
  text = calloc(1, 10000);
  do {
    CHECK(internvl_request_next(request, &piece) == INTERNVL_OK);
    memcpy(text + length, piece.text, piece.text_length);
    length += piece.text_length;
  } while (!piece.last);
  CHECK(internvl_request_next(request, &piece) == INTERNVL_OK && piece.last && piece.text_length == 0);
  CHECK(internvl_request_get_answer(request, 1, &answer) == INTERNVL_ERROR);
  CHECK(internvl_request_get_answer(request, 0, &answer) == INTERNVL_OK);
  CHECK(answer.text_length == length && memcmp(answer.text, text, length) == 0);
  CHECK(answer.token_count == 6 && answer.new_tokens == 6 && answer.finish_reason == INTERNVL_LENGTH);
  CHECK(answer.tiles == 1 && answer.cached_tiles == 0 && answer.total_ms > 0.0);
  internvl_request_cancel(request);
  internvl_request_free(request);
  free(text);

  CHECK(internvl_session_begin(NULL, NULL, 0, &session) == INTERNVL_ERROR && says("the model is NULL"));
  CHECK(internvl_session_begin(model, NULL, 3, &session) == INTERNVL_ERROR && says("the system message"));
  CHECK(internvl_session_begin(model, "Be short.", 9, NULL) == INTERNVL_ERROR && session == NULL);
  CHECK(internvl_session_begin(model, "Be short.", 9, &session) == INTERNVL_OK);
  CHECK(internvl_question_new(&question) == INTERNVL_OK);
  CHECK(internvl_session_ask(session, question, NULL, &request) == INTERNVL_PROMPT_ERROR && says("neither"));
  CHECK(internvl_question_set_text(question, "What is on the table?", 21) == INTERNVL_OK);
  CHECK(internvl_question_add_image(question, &image) == INTERNVL_OK);
  ask.streamed = 0;
  ask.do_sample = 1;
  ask.answers = 2;
  CHECK(internvl_session_ask(session, question, &ask, &request) == INTERNVL_PROMPT_ERROR &&
        says("Ask for one"));
  ask.answers = 1;
  ask.cache_salt_length = 4;
  CHECK(internvl_session_ask(session, question, &ask, &request) == INTERNVL_ERROR && says("cache_salt"));
  /* An older program knows no salt, and of an answer nothing of what was reused. */
  ask.size = offsetof(internvl_ask_options, cache_salt);
  CHECK(internvl_session_ask(session, question, &ask, &request) == INTERNVL_OK);
  CHECK(internvl_session_fork(session, &branch) == INTERNVL_PROMPT_ERROR &&
        says("answering another question"));
  CHECK(internvl_request_wait(request) == INTERNVL_OK);
  CHECK(internvl_session_fork(session, &branch) == INTERNVL_OK);
  internvl_request_free(request);
  CHECK(internvl_session_ask(branch, question, &ask, &request) == INTERNVL_OK);
  CHECK(internvl_request_wait(request) == INTERNVL_OK);
  answer.size = offsetof(internvl_answer, reused_tokens);
  answer.reused_tokens = -7;
  CHECK(internvl_request_get_answer(request, 0, &answer) == INTERNVL_OK && answer.reused_tokens == -7);
  answer.size = sizeof answer;
  CHECK(internvl_request_get_answer(request, 0, &answer) == INTERNVL_OK && answer.reused_tokens > 0);
  CHECK(answer.dropped_turns == 0);
  internvl_session_free(branch);
  internvl_request_free(request);

  /* What is freed before it was read is not part of the conversation, and keeps nobody waiting. */
  CHECK(internvl_session_ask(session, question, &ask, &request) == INTERNVL_OK);
  internvl_request_free(request);
  CHECK(internvl_session_ask(session, question, &ask, &request) == INTERNVL_OK);
  internvl_question_free(question);
  CHECK(internvl_session_close(session) == INTERNVL_OK && internvl_session_close(session) == INTERNVL_OK);
  internvl_session_free(session);
  CHECK(internvl_request_wait(request) == INTERNVL_OK);
  internvl_request_free(request);
  CHECK(internvl_session_close(NULL) == INTERNVL_ERROR);
  internvl_session_free(NULL);

  CHECK(internvl_model_close(model) == INTERNVL_OK && internvl_model_close(model) == INTERNVL_OK);
  CHECK(internvl_question_new(&question) == INTERNVL_OK);
  CHECK(internvl_question_set_text(question, "Hi", 2) == INTERNVL_OK);
  CHECK(internvl_model_ask(model, question, NULL, &request) == INTERNVL_CLOSED_ERROR);
  internvl_question_free(question);
  internvl_model_free(model);
  internvl_model_free(NULL);
  internvl_request_free(NULL);
  internvl_question_free(NULL);
  return 0;
}
