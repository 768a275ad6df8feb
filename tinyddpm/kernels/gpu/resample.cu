// Upsampling.

// x (N, H, W, C) -> y (N, 2H, 2W, C); rows are counted over all images
extern "C" __global__ void upsample(const real* x, real* y, int W, int C, int size)
{
    int i = thread();
    if (i >= size) return;
    int c = i % C, column = i / C % (2 * W), row = i / C / (2 * W);
    y[i] = x[(row / 2 * W + column / 2) * C + c];
}

// dy (N, 2H, 2W, C) -> dx (N, H, W, C); W and size are those of dx
extern "C" __global__ void upsample_backward(const real* dy, real* dx, int W, int C, int size)
{
    int i = thread();
    if (i >= size) return;
    int c = i % C, column = i / C % W, row = i / C / W;
    const real* corner = dy + ((size_t)2 * row * 2 * W + 2 * column) * C + c;
    dx[i] = corner[0] + corner[C] + corner[2 * W * C] + corner[2 * W * C + C];
}
