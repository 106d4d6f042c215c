// Channels-last images: [B, h, w, c] with fewer than 2^32 elements.

// Where element `i` of images [B, h, w, c] lies.
struct Pixel {
  unsigned image, y, x, channel;
};

__device__ __forceinline__ Pixel pixel(size_t i, unsigned h, unsigned w, unsigned c) {
  unsigned rest = (unsigned)i;
  Pixel p;
  p.channel = rest % c;
  rest /= c;
  p.x = rest % w;
  rest /= w;
  p.y = rest % h;
  p.image = rest / h;
  return p;
}

__device__ __forceinline__ size_t offset(unsigned image, unsigned y, unsigned x, unsigned channel, unsigned h,
                                         unsigned w, unsigned c) {
  return (((size_t)image * h + y) * w + x) * c + channel;
}

// What each output of a convolution sees, a row each, with zeros up to a multiple of 8: in: images [B, h, w, c].
// n: elements of the columns (below 2^32), h, w, c, kh, kw, oh, ow, stride y, stride x, padding y, padding x.
extern "C" __global__ void columns(Args a) {
  const unsigned h = a.n[1], w = a.n[2], c = a.n[3], kh = a.n[4], kw = a.n[5], oh = a.n[6], ow = a.n[7];
  const unsigned width = (kh * kw * c + 7) / 8 * 8;
  EACH8(i, a.n[0]) {
    unsigned rest = (unsigned)i, tap = rest % width, channel = tap % c;
    rest /= width;
    tap /= c;
    unsigned kx = tap % kw, ky = tap / kw;
    // Above or left of the image these wrap round to numbers larger than any side.
    const unsigned left = rest % ow * (unsigned)a.n[9] - (unsigned)a.n[11];
    rest /= ow;
    const unsigned top = rest % oh * (unsigned)a.n[8] - (unsigned)a.n[10], image = rest / oh;
    Eight seen;
    if (c % 8 == 0) {
      EACH_OF_EIGHT(j) seen.v[j] = 0.f;
      const size_t from = offset(image, top + ky, left + kx, channel, h, w, c);
      if (top + ky < h && left + kx < w) seen = get8(a, 0, from, from + 8);
    } else {
      EACH_OF_EIGHT(j) {
        const unsigned y = top + ky, x = left + kx;
        seen.v[j] = ky < kh && y < h && x < w ? get(a, 0, offset(image, y, x, channel, h, w, c)) : 0.f;
        if (++channel == c) channel = 0, kx++;
        if (kx == kw) kx = 0, ky++;
      }
    }
    put8(a, 0, i, a.n[0], seen);
  }
}

// A convolution's kernel for the way back: in: w [c_out, taps, c_in]. n: elements (below 2^32), c_out, taps, c_in.
// out: [c_in, taps, c_out], the taps in reverse order.
extern "C" __global__ void flip(Args a) {
  const unsigned c_out = a.n[1], taps = a.n[2], c_in = a.n[3];
  EACH(i, a.n[0]) {
    const unsigned out = (unsigned)i % c_out, rest = (unsigned)i / c_out, tap = rest % taps, in = rest / taps;
    put(a, 0, i, get(a, 0, ((size_t)out * taps + (taps - 1 - tap)) * c_in + in));
  }
}

// Nearest-neighbour enlargement by 2. in: x [B, h, w, c]. n: elements of y, h, w, c. f: factor. out: y [B, 2h, 2w, c].
extern "C" __global__ void enlarge2(Args a) {
  const unsigned h = a.n[1], w = a.n[2], c = a.n[3];
  if (c % 8 == 0) {
    EACH8(i, a.n[0]) {
      const Pixel p = pixel(i, 2 * h, 2 * w, c);
      Eight x = get8(a, 0, offset(p.image, p.y / 2, p.x / 2, p.channel, h, w, c), a.n[0] / 4);
      EACH_OF_EIGHT(j) x.v[j] *= a.f[0];
      put8(a, 0, i, a.n[0], x);
    }
    return;
  }
  EACH(i, a.n[0]) {
    Pixel p = pixel(i, 2 * h, 2 * w, c);
    put(a, 0, i, get(a, 0, offset(p.image, p.y / 2, p.x / 2, p.channel, h, w, c)) * a.f[0]);
  }
}

__device__ __forceinline__ void sum_squares2_in_eights(const Args &a) {
  const unsigned h = a.n[1], w = a.n[2], c = a.n[3];
  EACH8(i, a.n[0]) {
    const Pixel p = pixel(i, h, w, c);
    const size_t top = offset(p.image, 2 * p.y, 2 * p.x, p.channel, 2 * h, 2 * w, c), bottom = top + (size_t)2 * w * c;
    const size_t count = a.n[0] * 4;
    Eight x = get8(a, 0, top, count);
    const Eight right = get8(a, 0, top + c, count);
    const Eight below = get8(a, 0, bottom, count), corner = get8(a, 0, bottom + c, count);
    EACH_OF_EIGHT(j) x.v[j] = ((x.v[j] + right.v[j]) + (below.v[j] + corner.v[j])) * a.f[0];
    put8(a, 0, i, a.n[0], x);
  }
}

// Sums of 2x2 squares. in: x [B, 2h, 2w, c]. n: elements of y, h, w, c. f: factor. out: y [B, h, w, c].
extern "C" __global__ void sum_squares2(Args a) {
  const unsigned h = a.n[1], w = a.n[2], c = a.n[3];
  if (c % 8 == 0) return by_type<sum_squares2_in_eights, 0, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  EACH(i, a.n[0]) {
    Pixel p = pixel(i, h, w, c);
    const size_t top = offset(p.image, 2 * p.y, 2 * p.x, p.channel, 2 * h, 2 * w, c), bottom = top + (size_t)2 * w * c;
    put(a, 0, i, ((get(a, 0, top) + get(a, 0, top + c)) + (get(a, 0, bottom) + get(a, 0, bottom + c))) * a.f[0]);
  }
}

// How many of `at` and its two neighbours lie in 0..size.
__device__ __forceinline__ float neighbours(unsigned at, unsigned size) {
  return 1.f + (at > 0) + (at + 1 < size);
}

// Means of 3x3 windows over the pixels that exist, or the transpose of that map. in: x [B, h, w, c].
// n: elements, h, w, c, 1 for the transpose. out: y, as x.
extern "C" __global__ void means3(Args a) {
  const unsigned h = a.n[1], w = a.n[2], c = a.n[3];
  const bool transposed = a.n[4];
  EACH(i, a.n[0]) {
    Pixel p = pixel(i, h, w, c);
    float sum = 0.f;
    for (unsigned y = p.y > 0 ? p.y - 1 : 0; y < p.y + 2 && y < h; y++)
      for (unsigned x = p.x > 0 ? p.x - 1 : 0; x < p.x + 2 && x < w; x++) {
        const float v = get(a, 0, offset(p.image, y, x, p.channel, h, w, c));
        sum += transposed ? v / (neighbours(y, h) * neighbours(x, w)) : v;
      }
    put(a, 0, i, transposed ? sum : sum / (neighbours(p.y, h) * neighbours(p.x, w)));
  }
}

// The sizes of the three kernels of maximum pools:
// n: elements of out, h, w, c, outputs down, outputs across, window side, stride, padding above, padding to the left.
#define PLANES                                                                        \
  const unsigned h = a.n[1], w = a.n[2], c = a.n[3], oh = a.n[4], ow = a.n[5];        \
  const unsigned above = a.n[8], left = a.n[9];
#define WINDOWS PLANES const unsigned side = a.n[6], stride = a.n[7];

// Whether windows are of this kind, and channels in eights.
__device__ __forceinline__ bool in_windows(const Args &a, unsigned side, unsigned stride) {
  return a.n[3] % 8 == 0 && a.n[6] == side && a.n[7] == stride;
}

template <int SIDE, int STRIDE> __device__ __forceinline__ void max_pool_in_eights(const Args &a) {
  PLANES
  EACH8(i, a.n[0]) {
    const Pixel p = pixel(i, oh, ow, c);
    Eight best, winner;
    EACH_OF_EIGHT(j) best.v[j] = winner.v[j] = 0.f;
    bool found = false;
    _Pragma("unroll") for (int down = 0; down < SIDE; down++) {
      const unsigned y = p.y * STRIDE + down - above, x = p.x * STRIDE - left;
      if (y >= h) continue;
      // A row is read before any of it is used; beside the image some other pixel.
      Eight row[SIDE];
      _Pragma("unroll") for (int k = 0; k < SIDE; k++) {
        const size_t at = offset(p.image, y, x + k < w ? x + k : 0, p.channel, h, w, c);
        row[k] = get8(a, 0, at, at + 8);
      }
      _Pragma("unroll") for (int k = 0; k < SIDE; k++) {
        // No branch: the compiler would take the read into it.
        const bool exists = x + k < w;
        EACH_OF_EIGHT(j) {
          const float v = row[k].v[j];
          const bool wins = exists & (!found | (v > best.v[j]) | (v != v));
          best.v[j] = wins ? v : best.v[j];
          winner.v[j] = wins ? (float)(down * SIDE + k) : winner.v[j];
        }
        found |= exists;
      }
    }
    put8(a, 0, i, a.n[0], best);
    put8(a, 1, i, a.n[0], winner);
  }
}

// in: x [B, h, w, c]. out: the largest of each window [B, oh, ow, c], and the number of its tap in reading order.
// The first of equals wins, of pixels that exist; a NaN wins and stays.
extern "C" __global__ void max_pool(Args a) {
  if (in_windows(a, 3, 2)) return by_type<max_pool_in_eights<3, 2>, 0, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  if (in_windows(a, 2, 2)) return by_type<max_pool_in_eights<2, 2>, 0, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  WINDOWS
  EACH(i, a.n[0]) {
    Pixel p = pixel(i, oh, ow, c);
    float best = 0.f;
    unsigned winner = 0;
    bool found = false;
    for (unsigned tap = 0; tap < side * side; tap++) {
      // Above or left of the image these wrap round to numbers larger than any side.
      unsigned y = p.y * stride + tap / side - above, x = p.x * stride + tap % side - left;
      if (y >= h || x >= w) continue;
      const float v = get(a, 0, offset(p.image, y, x, p.channel, h, w, c));
      if (!found || v > best || v != v) {
        best = v;
        winner = tap;
      }
      found = true;
    }
    put(a, 0, i, best);
    put(a, 1, i, (float)winner);
  }
}

template <int SIDE, int STRIDE> __device__ __forceinline__ void max_scatter_in_eights(const Args &a) {
  PLANES
  EACH8(i, a.n[0]) {
    const Pixel p = pixel(i, h, w, c);
    Eight sum;
    EACH_OF_EIGHT(j) sum.v[j] = 0.f;
    const unsigned y = p.y + above, x = p.x + left;
    // Windows from the first that can see this pixel on; before the first window these wrap round.
    _Pragma("unroll") for (int up = (SIDE - 1) / STRIDE; up >= 0; up--) {
      const unsigned oy = y / STRIDE - up, down = y - oy * STRIDE;
      if (oy >= oh || down >= SIDE) continue;
      const int windows = (SIDE - 1) / STRIDE + 1;
      Eight grad[windows], winner[windows];
      _Pragma("unroll") for (int k = 0; k < windows; k++) {
        const unsigned ox = x / STRIDE - (windows - 1 - k);
        const size_t at = offset(p.image, oy, ox < ow ? ox : 0, p.channel, oh, ow, c);
        grad[k] = get8(a, 0, at, at + 8), winner[k] = get8(a, 1, at, at + 8);
      }
      _Pragma("unroll") for (int k = 0; k < windows; k++) {
        const unsigned ox = x / STRIDE - (windows - 1 - k), across = x - ox * STRIDE;
        const bool sees = (ox < ow) & (across < SIDE);
        EACH_OF_EIGHT(j)
            sum.v[j] += sees & (winner[k].v[j] == (float)(down * SIDE + across)) ? grad[k].v[j] : 0.f;
      }
    }
    put8(a, 0, i, a.n[0], sum);
  }
}

// in: gradient [B, oh, ow, c], winners. out: the gradient of x [B, h, w, c].
extern "C" __global__ void max_scatter(Args a) {
  if (in_windows(a, 3, 2)) return by_type<max_scatter_in_eights<3, 2>, 0, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  if (in_windows(a, 2, 2)) return by_type<max_scatter_in_eights<2, 2>, 0, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  WINDOWS
  EACH(i, a.n[0]) {
    Pixel p = pixel(i, h, w, c);
    float sum = 0.f;
    // The windows that see this pixel, and as which of their taps.
    const unsigned y = p.y + above, x = p.x + left;
    for (unsigned oy = y < side ? 0 : (y - side) / stride + 1; oy < oh && oy * stride <= y; oy++)
      for (unsigned ox = x < side ? 0 : (x - side) / stride + 1; ox < ow && ox * stride <= x; ox++) {
        const size_t at = offset(p.image, oy, ox, p.channel, oh, ow, c);
        if (get(a, 1, at) == (float)((y - oy * stride) * side + (x - ox * stride))) sum += get(a, 0, at);
      }
    put(a, 0, i, sum);
  }
}

// in: x [B, h, w, c], winners [B, oh, ow, c]. out: the pixels that won [B, oh, ow, c].
extern "C" __global__ void max_gather(Args a) {
  WINDOWS
  EACH(i, a.n[0]) {
    Pixel p = pixel(i, oh, ow, c);
    unsigned tap = (unsigned)get(a, 1, i);
    unsigned y = p.y * stride + tap / side - above, x = p.x * stride + tap % side - left;
    put(a, 0, i, y < h && x < w ? get(a, 0, offset(p.image, y, x, p.channel, h, w, c)) : 0.f);
  }
}

// Where a token of an image stands whose tokens are grouped in blocks, in raster order and so inside of each.
__device__ __forceinline__ unsigned grouped(unsigned y, unsigned x, unsigned w, unsigned bh, unsigned bw) {
  unsigned block = y / bh * (w / bw) + x / bw;
  return block * bh * bw + y % bh * bw + x % bw;
}

// Where element i of regrouped tokens comes from.
__device__ __forceinline__ size_t regrouped(const Args &a, size_t i) {
  const unsigned h = a.n[1], w = a.n[2], c = a.n[3], bh = a.n[4], bw = a.n[5], from_bh = a.n[6], from_bw = a.n[7];
  const unsigned way = a.n[8], columns = w / bw;
  unsigned rest = (unsigned)i, channel = rest % c;
  rest /= c;
  const unsigned inside = rest % (bh * bw);
  rest /= bh * bw;
  const unsigned block = rest % (h / bh * columns), image = rest / (h / bh * columns);
  unsigned y = block / columns * bh + inside / bw, x = block % columns * bw + inside % bw;
  unsigned from_h = h, from_w = w, from_c = c;
  if (way == 1) {
    channel = channel * 4 + y % 2 * 2 + x % 2;
    y /= 2, x /= 2, from_h /= 2, from_w /= 2, from_c *= 4;
  } else if (way == 2) {
    y = y * 2 + channel % 4 / 2, x = x * 2 + channel % 2;
    channel /= 4, from_h *= 2, from_w *= 2, from_c /= 4;
  }
  const unsigned token = grouped(y, x, from_w, from_bh, from_bw);
  return ((size_t)image * from_h * from_w + token) * from_c + channel;
}

// The two ways of `regroup` between channels and pixels, where pixels have `c` channels, a multiple of 8: a thread moves
// eight channels of a 2x2 square, which are 32 neighbours on the other side.
template <bool to_pixels> __device__ __forceinline__ void regroup_squares(const Args &a) {
  const unsigned h = to_pixels ? a.n[1] : a.n[1] * 2, w = to_pixels ? a.n[2] : a.n[2] * 2;
  const unsigned c = to_pixels ? a.n[3] : a.n[3] / 4;
  const unsigned pixel_bh = a.n[to_pixels ? 4 : 6], pixel_bw = a.n[to_pixels ? 5 : 7];
  const unsigned square_bh = a.n[to_pixels ? 6 : 4], square_bw = a.n[to_pixels ? 7 : 5];
  EACH(i, a.n[0] / 32) {
    unsigned rest = (unsigned)i;
    const unsigned channel = rest % (c / 8) * 8;
    rest /= c / 8;
    const unsigned x = rest % (w / 2);
    rest /= w / 2;
    const unsigned y = rest % (h / 2);
    const size_t image = rest / (h / 2);
    const size_t square =
        ((image * (h / 2) * (w / 2) + grouped(y, x, w / 2, square_bh, square_bw)) * c + channel) * 4;
    // The 32 neighbours: all pixels of a channel, then of the next, so that an eight has two channels.
    Eight near[4], pixel;
    if (to_pixels) EACH_OF_FOUR(l) near[l] = get8(a, 0, square + 8 * l, a.n[0]);
    EACH_OF_FOUR(k) {
      const size_t there =
          (image * h * w + grouped(2 * y + k / 2, 2 * x + k % 2, w, pixel_bh, pixel_bw)) * c + channel;
      if (to_pixels) {
        EACH_OF_EIGHT(j) pixel.v[j] = near[j / 2].v[j % 2 * 4 + k];
        put8(a, 0, there, a.n[0], pixel);
      } else {
        pixel = get8(a, 0, there, a.n[0]);
        EACH_OF_EIGHT(j) near[j / 2].v[j % 2 * 4 + k] = pixel.v[j];
      }
    }
    if (!to_pixels) EACH_OF_FOUR(l) put8(a, 0, square + 8 * l, a.n[0], near[l]);
  }
}

// Regroups an image's tokens, and on the way shuffles four channels into a 2x2 square of pixels or back.
// n: elements, h, w, c of the result as an image, height and width of its blocks, height and width of the input's blocks,
// way: 0 tokens only, 1 channels to pixels, 2 pixels to channels. An image is one block.
extern "C" __global__ void regroup(Args a) {
  if (a.n[8] == 0 && a.n[3] % 8 == 0) {
    EACH8(i, a.n[0]) put8(a, 0, i, a.n[0], get8(a, 0, regrouped(a, i), a.n[0]));
  } else if (a.n[8] == 1 && a.n[3] % 8 == 0) {
    by_type<regroup_squares<true>, 0, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  } else if (a.n[8] == 2 && a.n[3] % 32 == 0) {
    by_type<regroup_squares<false>, 0, ROUGH_IN(0) | ROUGH_OUT>(a, true);
  } else {
    EACH(i, a.n[0]) put(a, 0, i, get(a, 0, regrouped(a, i)));
  }
}
