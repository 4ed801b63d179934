// unpack: raw payload words -> calibrated pixels grouped by module. Formats: docs/wire-format.md (payload), docs/reconstruction.md.
#pragma once
#include "backends/team.cuh"
#include "views.gen.h"

namespace hlt {

constexpr uint32_t MAX_FEDS = 4096;
constexpr uint32_t MAX_CHARGE = 0x7fffffffu;  // stored charges saturate here

// Bits of EventFlag (proto/results.py).
constexpr uint32_t FLAG_FED_REJECTED = 1u << 0;
constexpr uint32_t FLAG_WORD_REJECTED = 1u << 1;
constexpr uint32_t FLAG_FED_ERROR_WORD = 1u << 2;
constexpr uint32_t FLAG_PAYLOAD_MALFORMED = 1u << 3;
constexpr uint32_t FLAG_DUPLICATE_PIXEL = 1u << 4;

// S-LINK frame words (pairs of 32 bits, low one first).
constexpr uint32_t HEADER_MARK = 0x5, TRAILER_MARK = 0xA;
constexpr uint32_t MORE_WORDS = 1u << 3;    // another header follows, another trailer precedes
constexpr uint32_t CRC_MODIFIED = 1u << 2;  // trailer: the frame was altered on its way
constexpr uint32_t FIRST_ERROR_ROC = 25;    // ROC fields from here on are error words of the readout

HLT_FN void count_fed_error(Results const& results, uint32_t event, uint32_t flag) {
  atomic_add(&results.fed_errors[event], 1u);
  atomic_or(&results.flags[event], flag);
}

// Item: an event. Clears the event's rows, walks its FED table by prefix sums and notes the frame of every FED of the detector;
// of several frames with one FED id the first in the table counts. O(FEDs in the table + modules).
HLT_FN void find_frames(Team const& team, uint32_t event, Detector const& det, Batch const& batch, Raw const& raw,
                        FedIndex const& fed_index, Frames const& frames, ModulePixels const& modules, LargeModules const& large,
                        Events const& events, Results const& results) {
  for (uint32_t m = team.rank(); m < det.n_modules; m += team.size()) modules.count[event * det.n_modules + m] = 0;
  for (uint32_t f = team.rank(); f < det.n_feds; f += team.size()) {
    frames.table_entry[event * det.n_feds + f] = NONE;
    frames.words[event * det.n_feds + f] = 0;
  }
  if (team.rank() == 0) {
    events.digest[event] = 0;
    results.flags[event] = 0;
    results.modules[event] = results.digis[event] = results.pixels[event] = results.clusters[event] = 0;
    results.hits[event] = results.doublets[event] = results.ntuplets[event] = 0;
    results.tracks[event] = results.tracks_high_purity[event] = results.vertices[event] = 0;
    results.fed_errors[event] = results.word_errors[event] = 0;
    results.displaced_tracks[event] = results.hard_tracks[event] = results.best_tracks[event] = 0;
    results.leading_pt[event] = results.sum_pt[event] = results.best_sum_pt[event] = results.best_sum_pt2[event] = 0.f;
    results.second_sum_pt2[event] = results.best_z[event] = results.event_score[event] = 0.f;
    results.vertex_ht[event] = results.vertex_pt2[event] = 0.f;
    events.sum_pt[event] = 0;
    if (event == 0) *large.n = 0;
  }
  team.sync();

  uint32_t const begin = batch.payload_begin[event], words = batch.payload_words[event];
  uint32_t const n_feds = words > 0 ? raw.word[begin] : 0;
  bool const table_fits = words > 0 && n_feds <= MAX_FEDS && 1 + 2 * n_feds <= words;
  if (!table_fits) {
    if (team.rank() == 0) atomic_or(&results.flags[event], FLAG_PAYLOAD_MALFORMED);
    return;
  }
  uint64_t at = 1 + 2 * n_feds;  // 64 bits: 4096 sizes of 32 bits cannot wrap it
  for (uint32_t first = 0; first < n_feds; first += team.size()) {
    uint32_t const k = first + team.rank();
    bool const active = k < n_feds;
    uint32_t const bytes = active ? raw.word[begin + 2 + 2 * k] : 0;
    uint64_t const size = (uint64_t(bytes) + 3) / 4;
    uint64_t total;
    uint64_t const frame = at + team.exclusive_scan(size, total);
    at += total;
    uint32_t const id = active ? raw.word[begin + 1 + 2 * k] : NONE;
    uint32_t const place = id < fed_index.capacity ? fed_index.place[id] : NONE;
    uint32_t const slot = event * det.n_feds + place;
    if (bytes != 0 && place != NONE) atomic_min(&frames.table_entry[slot], k);
    team.sync();
    if (bytes != 0) {
      if (frame + size > words || bytes % 8 != 0) {
        count_fed_error(results, event, FLAG_FED_REJECTED | FLAG_PAYLOAD_MALFORMED);
      } else if (place != NONE && frames.table_entry[slot] != k) {
        count_fed_error(results, event, FLAG_FED_REJECTED);
      } else if (place != NONE) {
        frames.begin[slot] = begin + uint32_t(frame);
        frames.words[slot] = uint32_t(size);
      }
    }
    team.sync();
  }
}

struct FrameBody {
  uint32_t begin, words;
  bool good;
};

// Strips headers and trailers of a frame of `words` words (even). Every header and trailer must carry its marker;
// the last trailer tells whether the frame was altered.
HLT_FN FrameBody frame_body(Raw const& raw, uint32_t begin, uint32_t words) {
  FrameBody const bad = {begin, 0, false};
  uint32_t head = 0, more = MORE_WORDS;
  while (more) {
    if (head + 2 > words || raw.word[begin + head + 1] >> 28 != HEADER_MARK) return bad;
    more = raw.word[begin + head] & MORE_WORDS;
    head += 2;
  }
  uint32_t tail = words;
  more = MORE_WORDS;
  while (more) {
    if (tail < head + 2 || raw.word[begin + tail - 1] >> 28 != TRAILER_MARK) return bad;
    uint32_t const check = raw.word[begin + tail - 2];
    if (tail == words && (check & CRC_MODIFIED)) return bad;
    more = check & MORE_WORDS;
    tail -= 2;
  }
  return {begin + head, tail - head, true};
}

// Charge of a pixel, in electrons, float32 in the order of the CMS code: vcal = adc * gain - pedestal * gain.
HLT_FN uint32_t calibrate(uint32_t adc, uint32_t code, Detector const& det, ModuleTable const& table, uint32_t module) {
  float const gain = float(code & 0xffu) * det.gain_precision + det.gain_min;
  float const pedestal = float(code >> 8) * det.pedestal_precision + det.pedestal_min;
  float const vcal = float(adc) * gain - pedestal * gain;
  float const e = vcal * table.electrons_per_vcal[module] + table.electrons_offset[module];
  if (!(e > float(det.min_electrons))) return uint32_t(det.min_electrons);
  return e < 2147483648.f ? uint32_t(e) : MAX_CHARGE;
}

// Where the charge of a pixel word belongs; module NO_MODULE: nowhere.
struct PixelPlace {
  uint32_t module, position, code;  // code: entry of Gains
};

// Decodes a pixel word; the checks come in the order of the CMS unpacker: padding, error word, address, disabled ROC, pixel coordinates.
HLT_FN PixelPlace decode_word(uint32_t word, uint32_t fed, Detector const& det, Cabling const& cabling, uint32_t& bad_words,
                              uint32_t& flags) {
  PixelPlace const nowhere = {NO_MODULE, 0, 0};
  if (word == 0) return nowhere;
  uint32_t const link = word >> 26, roc = word >> 21 & 31u;
  if (roc >= FIRST_ERROR_ROC) {
    flags |= FLAG_FED_ERROR_WORD;
    return nowhere;
  }
  uint32_t const place = (fed * det.links + link - 1) * det.rocs + roc - 1;
  bool const connected = link != 0 && link <= det.links && roc != 0 && roc <= det.rocs && cabling.module[place] != NO_MODULE;
  if (!connected) {
    ++bad_words;
    return nowhere;
  }
  if (cabling.disabled[place]) return nowhere;
  int32_t r, c;
  if (cabling.word_format[place] == 0) {
    int32_t const pixel = word >> 8 & 0xffu;
    r = det.chip_rows - pixel / 2;
    c = 2 * int32_t(word >> 16 & 31u) + pixel % 2;
  } else {
    r = word >> 8 & 127u;
    c = word >> 15 & 63u;
  }
  if (r < 0 || r >= det.chip_rows || c >= det.chip_cols) {
    ++bad_words;
    return nowhere;
  }
  uint32_t const module = cabling.module[place];
  uint32_t const row = cabling.row0[place] + cabling.row_step[place] * r;
  uint32_t const col = cabling.col0[place] + cabling.col_step[place] * c;
  if (row >= det.rows || col >= det.cols) {
    ++bad_words;
    return nowhere;
  }
  return {module, col * det.column_words * 32 + row, (module * det.cols + col) * det.gain_blocks + row / det.rows_per_block};
}

// Item: a FED of an event. Decodes its pixel words; those of dead and noisy columns are left out. O(words).
HLT_FN void decode_frames(Team const& team, uint32_t item, Detector const& det, Raw const& raw, FedIndex const& fed_index,
                          Cabling const& cabling, Gains const& gains, ModuleTable const& table, Frames const& frames, Words const& out,
                          ModulePixels const& modules, Results const& results) {
  if (frames.words[item] == 0) return;
  uint32_t const event = item / det.n_feds, fed = item % det.n_feds;
  uint32_t const frame = frames.begin[item];
  FrameBody const body = frame_body(raw, frame, frames.words[item]);
  team.sync();  // the frame has been read by all before it is narrowed to its body
  if (team.rank() == 0) {
    frames.begin[item] = body.begin;
    frames.words[item] = body.words;
    atomic_add(&results.digis[event], body.words);
    if (!body.good) {
      count_fed_error(results, event, FLAG_FED_REJECTED);
    } else if ((raw.word[frame] >> 8 & 0xfffu) != fed_index.id[fed]) {
      atomic_add(&results.fed_errors[event], 1u);  // a header that names another FED: counted, the data are used
    }
  }
  uint32_t bad_words = 0, flags = 0;
  // A thread takes several words at a time: their gains are on the way from memory while the others are decoded.
  PixelPlace places[ITEMS_AHEAD];
  for (uint32_t first = team.rank(); first < body.words; first += ITEMS_AHEAD * team.size()) {
    uint32_t const n = smaller(ITEMS_AHEAD, (body.words - first + team.size() - 1) / team.size());
    for (uint32_t k = 0; k < n; ++k) {
      places[k] = decode_word(raw.word[body.begin + first + k * team.size()], fed, det, cabling, bad_words, flags);
      prefetch(&gains.code[places[k].code]);
    }
    for (uint32_t k = 0; k < n; ++k) {
      uint32_t const w = body.begin + first + k * team.size(), module = places[k].module;
      out.module[w] = uint16_t(module);
      if (module == NO_MODULE) continue;
      uint32_t const code = gains.code[places[k].code];
      if (code >> 8 == det.dead_code || code >> 8 == det.noisy_code) {
        out.module[w] = NO_MODULE;
        continue;
      }
      out.position[w] = places[k].position;
      out.charge[w] = calibrate(raw.word[w] & 0xffu, code, det, table, module);
      tally(&modules.count[event * det.n_modules + module]);
    }
  }
  if (bad_words) {
    atomic_add(&results.word_errors[event], bad_words);
    flags |= FLAG_WORD_REJECTED;
  }
  if (flags) atomic_or(&results.flags[event], flags);
}

// Item: an event. Places its modules one after the other in the pixel arrays, from the event's first payload word on
// (an event has at most as many pixels as words, so events never meet). O(modules).
HLT_FN void place_modules(Team const& team, uint32_t event, Detector const& det, Batch const& batch, ModulePixels const& modules,
                          Results const& results) {
  uint32_t at = batch.payload_begin[event], fired = 0;
  for (uint32_t first = 0; first < det.n_modules; first += team.size()) {
    uint32_t const m = first + team.rank(), item = event * det.n_modules + m;
    uint32_t const count = m < det.n_modules ? modules.count[item] : 0;
    uint32_t total;
    uint32_t const begin = at + team.exclusive_scan(count, total);
    at += total;
    fired += count > 0;
    if (m < det.n_modules) modules.begin[item] = modules.cursor[item] = begin;
  }
  if (fired) atomic_add(&results.modules[event], fired);
}

// Item: a FED of an event. Copies its valid pixels to their module's group. O(words).
HLT_FN void group_pixels(Team const& team, uint32_t item, Detector const& det, Frames const& frames, Words const& words,
                         ModulePixels const& modules, Pixels const& pixels) {
  uint32_t const first_module = item / det.n_feds * det.n_modules;
  for (uint32_t i = team.rank(); i < frames.words[item]; i += team.size()) {
    uint32_t const w = frames.begin[item] + i;
    if (words.module[w] == NO_MODULE) continue;
    uint32_t const slot = count_at(&modules.cursor[first_module + words.module[w]]);
    pixels.position[slot] = words.position[w];
    pixels.charge[slot] = words.charge[w];
  }
}

}  // namespace hlt
