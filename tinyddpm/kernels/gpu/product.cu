// For matrix products: their operands, the arrays to which they are added, and sums over rows.

extern "C" __global__ void operands(const real* x, operand* y, int size)
{
    int i = thread();
    if (i < size) y[i] = narrow(x[i]);
}

// y (rows, K) = b + other, other (rows / pixels, K) or absent; a product is then added to y
extern "C" __global__ void start(real* y, const real* b, const real* other, int pixels, int K, int size)
{
    int i = thread();
    if (i >= size) return;
    int k = i % K;
    y[i] = b[k] + (other ? other[i / (pixels * K) * K + k] : 0);
}

// sums (S, K) of x (S, rows, K) over its rows; one block of (32, 8) threads for 32 columns of one s
extern "C" __global__ void column_sums(const real* x, real* sums, int rows, int K)
{
    __shared__ real shared[8][32];
    int k = blockIdx.x * 32 + threadIdx.x;
    real sum = 0;
    if (k < K)
        for (int r = threadIdx.y; r < rows; r += 8) sum += x[((size_t)blockIdx.y * rows + r) * K + k];
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && k < K) {
        for (int lane = 1; lane < 8; lane++) sum += shared[lane][threadIdx.x];
        sums[blockIdx.y * K + k] = sum;
    }
}
