// For matrix products: their operands, and sums over rows.

// y (., rows2, columns2) = x (., rows, columns), padded with zeros
extern "C" __global__ void pad(const number* x, number* y, int rows, int columns, int rows2, int columns2, int size)
{
    int i = thread();
    if (i >= size) return;
    int column = i % columns2, row = i / columns2 % rows2, matrix = i / columns2 / rows2;
    bool there = row < rows && column < columns;
    y[i] = there ? x[((size_t)matrix * rows + row) * columns + column] : store(0);
}

extern "C" __global__ void narrow(const real* x, number* y, int size)
{
    int i = thread();
    if (i >= size) return;
    Pack<real, V> wide = ((const Pack<real, V>*)x)[i];
    Pack<number, V> pack;
    for (int v = 0; v < V; v++) pack.at[v] = store(wide.at[v]);
    ((Pack<number, V>*)y)[i] = pack;
}

extern "C" __global__ void widen(const number* x, real* y, int size)
{
    int i = thread();
    if (i < size) y[i] = load(x[i]);
}

// sums (S, K) of x (S, rows, K) over its rows; a block of 1024 threads at most: (pack of V columns, lane)
extern "C" __global__ void __launch_bounds__(1024) column_sums(const number* __restrict__ x, real* sums, int rows, int K)
{
    __shared__ real shared[1024 * V];
    int columns = blockDim.x * V, first = blockIdx.x * columns + threadIdx.x * V;
    real sum[V] = {};
    if (first < K)
#pragma unroll 8
        for (int r = threadIdx.y; r < rows; r += blockDim.y) {
            Pack<number, V> pack = *(const Pack<number, V>*)(x + ((size_t)blockIdx.y * rows + r) * K + first);
            for (int v = 0; v < V; v++) sum[v] += load(pack.at[v]);
        }
    for (int v = 0; v < V; v++) shared[threadIdx.y * columns + threadIdx.x * V + v] = sum[v];
    __syncthreads();
    for (int c = threadIdx.y * blockDim.x + threadIdx.x; c < columns; c += blockDim.x * blockDim.y) {
        int k = blockIdx.x * columns + c;
        if (k >= K) return;
        real whole = shared[c];
        for (int lane = 1; lane < blockDim.y; lane++) whole += shared[lane * columns + c];
        sums[blockIdx.y * K + k] = whole;
    }
}

// a (size_a) += the sum over the rows of parts_a (rows_a, size_a), and b likewise; the first blocks_a blocks are for a
extern "C" __global__ void add_sums(real* a, const real* parts_a, int rows_a, int size_a, real* b, const real* parts_b,
                                    int rows_b, int size_b, int blocks_a)
{
    __shared__ real shared[8][32 * V];
    bool of_a = blockIdx.x < blocks_a;
    int first = (of_a ? blockIdx.x : blockIdx.x - blocks_a) * 32 * V, i = first + threadIdx.x * V;
    int size = of_a ? size_a : size_b, rows = of_a ? rows_a : rows_b;
    const real* parts = of_a ? parts_a : parts_b;
    real sum[V] = {};
    if (i < size)
#pragma unroll 4
        for (int r = threadIdx.y; r < rows; r += 8) {
            Pack<real, V> pack = *(const Pack<real, V>*)(parts + (size_t)r * size + i);
            for (int v = 0; v < V; v++) sum[v] += pack.at[v];
        }
    for (int v = 0; v < V; v++) shared[threadIdx.y][threadIdx.x * V + v] = sum[v];
    __syncthreads();
    for (int c = threadIdx.y * 32 + threadIdx.x; c < 32 * V && first + c < size; c += 256) {
        real whole = shared[0][c];
        for (int lane = 1; lane < 8; lane++) whole += shared[lane][c];
        (of_a ? a : b)[first + c] += whole;
    }
}
