// A data source in C, written from docs/wire-format.md alone: reads pixels of my-detector, packs them into FED tables, streams them to
// an ingest within its credit, and prints the decisions.
//
//     cc -std=c99 -O2 -Wall -o client client.c -lzmq
//     ./client tcp://127.0.0.1:7400 pixels.bin
//     ./client --vectors                           # the frames of the page's test vectors, to be compared
//
// pixels.bin stands for the raw format of somebody else: for each event u32 n, then n times u16 module, row, column, adc.
// Left out for brevity: sending again what was not decided when the connection breaks (the page, "Session and credit").
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

enum { HELLO = 1, EVENT, CREDIT, DECISION, ERROR, BYE };
enum { MAX_PIXELS = 200000, MAX_PAYLOAD = 4 << 20 };
// my-detector.yaml: 200 x 300 pixels, chips of 100 x 50, FEDs from 100 on with 24 modules each, a link for each module.
enum { MODULES = 2692, CHIP_ROWS = 100, CHIP_COLS = 50, CHIPS_ACROSS = 6, FIRST_FED = 100, PER_FED = 24 };
enum { FEDS = (MODULES + PER_FED - 1) / PER_FED };

typedef struct { uint16_t module, row, col, adc; } Pixel;
typedef struct { uint64_t session, granted_events, granted_bytes, sent_events, sent_bytes; uint32_t serial, flags, run; } Session;

static void put(uint8_t *at, uint64_t value, int bytes) { for (int i = 0; i < bytes; ++i) at[i] = (uint8_t)(value >> 8 * i); }
static uint64_t get(uint8_t const *at, int bytes) {
  uint64_t value = 0;
  for (int i = bytes; i-- > 0;) value = value << 8 | at[i];
  return value;
}

static uint32_t crc32c(uint8_t const *data, size_t n) {
  static uint32_t table[256];
  if (!table[1])
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = c & 1 ? c >> 1 ^ 0x82F63B78u : c >> 1;  // 0x1EDC6F41, reflected
      table[i] = c;
    }
  uint32_t c = ~0u;
  for (size_t i = 0; i < n; ++i) c = table[(c ^ data[i]) & 255] ^ c >> 8;
  return ~c;
}

// Header: what all types share around the fields of this one, which lie at offset 16 already.
static void seal(uint8_t *header, int type, int header_bytes, uint8_t const *body, size_t body_bytes) {
  memcpy(header, "HLTF", 4);
  put(header + 4, 1, 1), put(header + 5, type, 1), put(header + 6, header_bytes, 2), put(header + 8, body_bytes, 4);
  put(header + 12, body_bytes ? crc32c(body, body_bytes) : 0, 4);
  put(header + header_bytes - 4, crc32c(header, header_bytes - 4), 4);
}

static int make_hello(uint8_t *header, Session const *s, char const *name) {
  put(header + 16, s->session, 8), put(header + 24, s->serial, 4), put(header + 28, s->sent_events, 8), put(header + 36, s->sent_bytes, 8);
  seal(header, HELLO, 48, (uint8_t const *)name, strlen(name));
  return 48;
}

static int make_event(uint8_t *header, uint32_t run, uint32_t lumi, uint64_t event, uint32_t bx, int flags, uint64_t cookie,
                      uint8_t const *payload, size_t bytes) {
  put(header + 16, run, 4), put(header + 20, lumi, 4), put(header + 24, event, 8), put(header + 32, bx, 4);
  put(header + 36, 1, 2), put(header + 38, flags, 2), put(header + 40, cookie, 8);  // payload format 1: FED table
  seal(header, EVENT, 52, payload, bytes);
  return 52;
}

// Pixels to a FED table: a count for each FED, the table, then frames of header, words (an even number) and trailer.
static size_t fed_table(Pixel const *pixels, uint32_t n, uint64_t event, uint8_t *out) {
  uint32_t count[FEDS] = {0}, start[FEDS], at = 1 + 2 * FEDS;
  for (uint32_t i = 0; i < n; ++i) ++count[pixels[i].module / PER_FED];
  put(out, FEDS, 4);
  for (uint32_t f = 0; f < FEDS; ++f) {
    uint32_t const words = 4 + count[f] + count[f] % 2;
    put(out + 4 + 8 * f, FIRST_FED + f, 4), put(out + 8 + 8 * f, 4 * words, 4);
    memset(out + 4 * at, 0, 4 * words);
    put(out + 4 * at, (FIRST_FED + f) << 8, 4), put(out + 4 * at + 4, 0x50000000u | (event & 0xFFFFFF), 4);
    put(out + 4 * (at + words - 1), 0xA0000000u | words / 2, 4);
    start[f] = at + 2;
    at += words;
  }
  for (uint32_t i = 0; i < n; ++i) {
    uint32_t const link = pixels[i].module % PER_FED + 1;
    uint32_t const chip = pixels[i].row / CHIP_ROWS * CHIPS_ACROSS + pixels[i].col / CHIP_COLS + 1;
    uint32_t const row = pixels[i].row % CHIP_ROWS, col = pixels[i].col % CHIP_COLS;
    put(out + 4 * start[pixels[i].module / PER_FED]++, link << 26 | chip << 21 | col << 15 | row << 8 | (pixels[i].adc & 255u), 4);
  }
  return 4 * at;
}

static void die(char const *what) { fprintf(stderr, "client: %s\n", what), exit(1); }
static void send_frames(void *socket, uint8_t const *header, size_t h, void const *body, size_t b) {
  if (zmq_send(socket, header, h, ZMQ_SNDMORE) < 0 || zmq_send(socket, body, b, 0) < 0) die("cannot send");
}
static void say_hello(void *socket, Session const *s) {
  uint8_t header[48];
  send_frames(socket, header, make_hello(header, s, "readout-c"), "readout-c", 9);
}

// Takes one message if one comes within `ms`; returns the number of decisions in it, -1 for none.
static int receive(void *socket, Session *s, long ms) {
  static uint8_t header[64], body[1 << 20];
  zmq_pollitem_t item = {socket, 0, ZMQ_POLLIN, 0};
  if (zmq_poll(&item, 1, ms) <= 0) return -1;
  int const h = zmq_recv(socket, header, sizeof header, 0), b = zmq_recv(socket, body, sizeof body, 0);
  if (h < 20 || memcmp(header, "HLTF", 4) || header[4] != 1 || get(header + 6, 2) != (uint64_t)h) die("not a frame");
  if (b < 0 || b > (int)sizeof body) die("a body that is too large");
  if (get(header + h - 4, 4) != crc32c(header, h - 4) || (b && get(header + 12, 4) != crc32c(body, b))) die("a wrong checksum");
  switch (header[5]) {
    case CREDIT:
      s->session = get(header + 16, 8), s->serial = get(header + 24, 4), s->flags = get(header + 28, 4);
      s->granted_events = get(header + 32, 8), s->granted_bytes = get(header + 40, 8), s->run = get(header + 48, 4);
      if (s->flags & 1) say_hello(socket, s);
      return 0;
    case DECISION: {
      int const n = get(header + 16, 4), size = get(header + 20, 4);
      for (uint8_t const *r = body; r < body + n * size; r += size)
        printf("event %" PRIu64 " %s tracks %u digest %016" PRIx64 "\n", get(r + 8, 8),
               r[20] == 1 ? "accept" : r[20] == 2 ? "reject" : "error", (unsigned)get(r + 88 + 4 * 7, 4), get(r + 56, 8));
      return n;
    }
    case ERROR:
      fprintf(stderr, "client: refused with code %d: %.*s\n", (int)get(header + 16, 2), b, body);
      exit(1);
  }
  return 0;
}

static void show(char const *name, uint8_t const *header, int n) {
  printf("%s ", name);
  for (int i = 0; i < n; ++i) printf("%02x", header[i]);
  printf("\n");
}

static int vectors(uint8_t *header) {
  uint32_t const words[] = {1, 1200, 16, 0x0BADF00Du, 0x50000000u, 2, 0xA0000000u};
  uint8_t body[28];
  Session s = {0};
  for (int i = 0; i < 7; ++i) put(body + 4 * i, words[i], 4);
  show("hello", header, make_hello(header, &s, "readout-1"));
  show("event", header, make_event(header, 390000, 17, 123456789012u, 2748, 1, 42, body, sizeof body));
  return 0;
}

int main(int argc, char **argv) {
  static uint8_t header[64], payload[MAX_PAYLOAD];
  static Pixel pixels[MAX_PIXELS];
  if (argc == 2 && !strcmp(argv[1], "--vectors")) return vectors(header);
  if (argc != 3) die("usage: client URL pixels.bin");
  FILE *const file = fopen(argv[2], "rb");
  if (!file) die("cannot open the file of pixels");
  void *const context = zmq_ctx_new(), *const socket = zmq_socket(context, ZMQ_DEALER);
  if (zmq_connect(socket, argv[1])) die("cannot connect");

  Session s = {0};
  uint64_t decided = 0, sent = 0;
  time_t said = time(NULL);
  say_hello(socket, &s);
  for (uint8_t field[8]; fread(field, 4, 1, file) == 1; ++sent) {
    uint32_t const n = get(field, 4);
    if (n > MAX_PIXELS) die("an event with too many pixels");
    for (uint32_t i = 0; i < n; ++i) {
      if (fread(field, 8, 1, file) != 1) die("the file ends within an event");
      pixels[i] = (Pixel){get(field, 2), get(field + 2, 2), get(field + 4, 2), get(field + 6, 2)};
      if (pixels[i].module >= MODULES || pixels[i].row >= 2 * CHIP_ROWS || pixels[i].col >= CHIPS_ACROSS * CHIP_COLS) die("no such pixel");
    }
    size_t const bytes = fed_table(pixels, n, sent, payload);
    while (s.sent_events >= s.granted_events || s.sent_bytes + bytes > s.granted_bytes || !s.run) {  // credit is the only licence to send
      int const got = receive(socket, &s, 1000);
      if (got > 0) decided += got;
      if (got < 0 || time(NULL) != said) say_hello(socket, &s), said = time(NULL);  // a sign of life at least every second or so
    }
    send_frames(socket, header, make_event(header, s.run, 1, sent, 0, 0, sent, payload, bytes), payload, bytes);
    s.sent_events += 1, s.sent_bytes += bytes;
  }
  while (decided < sent) {
    int const got = receive(socket, &s, 1000);
    if (got > 0) decided += got;
    if (got < 0 || time(NULL) != said) say_hello(socket, &s), said = time(NULL);
  }
  put(header + 16, s.session, 8);
  seal(header, BYE, 28, NULL, 0);
  send_frames(socket, header, 28, "", 0);
  zmq_close(socket), zmq_ctx_term(context), fclose(file);
  fprintf(stderr, "%" PRIu64 " events sent, %" PRIu64 " decided\n", sent, decided);
  return decided == sent ? 0 : 1;
}
