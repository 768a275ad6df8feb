// Upsampling, in packs of V channels.

typedef Pack<number, V> pack;

// x (N, H, W, C) -> y (N, 2H, 2W, C); C in packs, rows are counted over all images
extern "C" __global__ void upsample(const number* x, number* y, int W, int C, int size)
{
    int i = thread();
    if (i >= size) return;
    int c = i % C, column = i / C % (2 * W), row = i / C / (2 * W);
    ((pack*)y)[i] = ((const pack*)x)[(row / 2 * W + column / 2) * C + c];
}

// dy (N, 2H, 2W, C) -> dx (N, H, W, C); W and size are those of dx
extern "C" __global__ void upsample_backward(const number* dy, number* dx, int W, int C, int size)
{
    int i = thread();
    if (i >= size) return;
    int c = i % C, column = i / C % W, row = i / C / W;
    const pack* corner = (const pack*)dy + ((size_t)2 * row * 2 * W + 2 * column) * C + c;
    pack z[4] = {corner[0], corner[C], corner[2 * W * C], corner[2 * W * C + C]}, sum;
    for (int v = 0; v < V; v++)
        sum.at[v] = store(load(z[0].at[v]) + load(z[1].at[v]) + load(z[2].at[v]) + load(z[3].at[v]));
    ((pack*)dx)[i] = sum;
}
