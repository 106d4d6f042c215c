// Augmentation of images: colour, shift and hole, as `src/augment.rs` has them. After `spectral.cuh`, whose sums over a
// block it needs.

// What happens to one image, a row of the table.
struct Change {
  float brightness, saturation, contrast;
  int down, right, hole_top, hole_bottom, hole_left, hole_right;

  __device__ explicit Change(const float *row)
      : brightness(row[0]), saturation(row[1]), contrast(row[2]), down((int)row[3]), right((int)row[4]),
        hole_top((int)row[5]), hole_bottom((int)row[6]), hole_left((int)row[7]), hole_right((int)row[8]) {}

  // Whether the place at y, x of the result shows a pixel of the image.
  __device__ bool shows(int y, int x, int h, int w) const {
    const bool cut = y >= hole_top && y < hole_bottom && x >= hole_left && x < hole_right;
    return !cut && y >= down && y - down < h && x >= right && x - right < w;
  }
};

// in: images [B, h, w, 3], table [B, 9]. n: h, w, direction: 0 the change, 1 without its offset, 2 the transpose of that.
// out: the changed images. A block an image.
extern "C" __global__ void __launch_bounds__(512, 1) change_images(Args a) {
  const int h = (int)a.n[0], w = (int)a.n[1], pixels = h * w;
  const bool transposed = a.n[2] == 2;
  const Change change(numbers(a, 1) + blockIdx.x * (size_t)9);
  const float *image = numbers(a, 0) + blockIdx.x * (size_t)pixels * 3;
  float *out = (float *)a.out[0] + blockIdx.x * (size_t)pixels * 3;

  float sum = 0.f;
  _Pragma("unroll 4") for (int p = threadIdx.x; p < pixels; p += blockDim.x) {
    const float *v = image + 3 * p;
    if (!transposed || change.shows(p / w, p % w, h, w)) sum += v[0] + v[1] + v[2];
  }
  const float mean = block_sum(sum) / (3.f * pixels);
  const float offset = a.n[2] == 0 ? mean + change.brightness : mean;
  const int way = change.down * w + change.right;

  _Pragma("unroll 4") for (int p = threadIdx.x; p < pixels; p += blockDim.x) {
    const int y = p / w, x = p % w, to_y = y + change.down, to_x = x + change.right;
    // Back to where a pixel came from there are pixels that were moved outside.
    const bool inside = to_y >= 0 && to_y < h && to_x >= 0 && to_x < w;
    const bool shown = transposed ? inside && change.shows(to_y, to_x, h, w) : change.shows(y, x, h, w);
    const float *v = image + 3 * (shown ? transposed ? p + way : p - way : 0);
    float color[3];
    for (int c = 0; c < 3; c++) color[c] = shown ? v[c] : 0.f;
    const float grey = (color[0] + color[1] + color[2]) * (1.f / 3.f);
    for (int c = 0; c < 3; c++) {
      const float saturated = (color[c] - grey) * change.saturation + grey;
      out[3 * p + c] = shown || transposed ? (saturated - mean) * change.contrast + offset : 0.f;
    }
  }
}
