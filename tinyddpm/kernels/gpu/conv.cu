// Gathers the pixels that an output pixel of a convolution sees into a row.

// rows (N, H2, W2, kh, kw, C): for each pixel (i, j) of the result and each position (p, q) of the kernel, the source
// pixel ((mul i + sign p + top) / div, (mul j + sign q + left) / div), or zeros where there is none. One thread for
// each pixel and pack of V channels.
template <int V>
__device__ void gather(const operand* source, operand* rows, int H, int W, int C, int H2, int W2, int kh, int kw,
                       int mul, int sign, int div, int top, int left, int size)
{
    typedef Pack<operand, V> pack;
    int i = thread();
    if (i >= size) return;
    int packs = C / V, pixel = i / packs, c = i % packs, row = pixel / W2, n = row / H2;      // row: of all images
    int top_y = mul * (row % H2) + top, left_x = mul * (pixel % W2) + left;
    pack* target = (pack*)rows + pixel * kh * kw * packs + c;
    for (int p = 0; p < kh; p++)
        for (int q = 0; q < kw; q++, target += packs) {
            int y = top_y + sign * p, x = left_x + sign * q;
            bool meets = y >= 0 && x >= 0;
            if (div > 1) {
                meets = meets && y % div == 0 && x % div == 0;
                y /= div, x /= div;
            }
            pack value = {};
            if (meets && y < H && x < W) value = ((const pack*)source)[((n * H + y) * W + x) * packs + c];
            *target = value;
        }
}

extern "C" __global__ void gather_one(const operand* source, operand* rows, int H, int W, int C, int H2, int W2,
                                      int kh, int kw, int mul, int sign, int div, int top, int left, int size)
{
    gather<1>(source, rows, H, W, C, H2, W2, kh, kw, mul, sign, div, top, left, size);
}

extern "C" __global__ void gather_pack(const operand* source, operand* rows, int H, int W, int C, int H2, int W2,
                                       int kh, int kw, int mul, int sign, int div, int top, int left, int size)
{
    gather<16 / sizeof(operand)>(source, rows, H, W, C, H2, W2, kh, kw, mul, sign, div, top, left, size);
}
