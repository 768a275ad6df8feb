// Group normalization, alone or with SiLU: a block has whole groups of one sample; threads (pack of V channels, lane).
// The packs of the first `held` pixels stay in shared memory, so that they are read once, however often they are used.

typedef Pack<number, V> pack;

// Shared memory, in this order: a block's numbers to be summed, for each channel two more, and the packs
struct Shared {
    int channels = blockDim.x * V, threads = blockDim.x * blockDim.y;
    real *sums = (real*)dynamic, *means = sums + threads * V, *factors = means + channels;
    pack* packs = (pack*)(factors + channels);

    // In sums: for each channel of the block, the sum over the lanes of the numbers that its threads give
    __device__ void sum_lanes(const real* values)
    {
        for (int v = 0; v < V; v++) sums[threadIdx.y * channels + threadIdx.x * V + v] = values[v];
        __syncthreads();
        for (int c = threadIdx.y * blockDim.x + threadIdx.x; c < channels; c += threads) {
            real sum = 0;
#pragma unroll 8
            for (int lane = 0; lane < blockDim.y; lane++) sum += sums[lane * channels + c];
            sums[c] = sum;
        }
        __syncthreads();
    }

    // The means over the groups of the thread's channels, from the sums, times their factors if `weighted`
    __device__ void group_means(real count, int width, bool weighted, real* result)
    {
        for (int g = threadIdx.y * blockDim.x + threadIdx.x; g < channels / width; g += threads) {
            real sum = 0;
            for (int c = g * width; c < (g + 1) * width; c++) sum += sums[c] * (weighted ? factors[c] : 1);
            means[g] = sum / count;
        }
        __syncthreads();
        for (int v = 0; v < V; v++) result[v] = means[(threadIdx.x * V + v) / width];
        __syncthreads();
    }
};

// The thread's packs of an image (L, C)
struct Column {
    const number* first;
    pack* packs;
    int C, held;

    __device__ pack read(int i)                     // for the first time
    {
        pack z = *(const pack*)(first + (size_t)i * C);
        if (i < held) packs[i * blockDim.x + threadIdx.x] = z;
        return z;
    }
    __device__ pack again(int i) const
    {
        return i < held ? packs[i * blockDim.x + threadIdx.x] : *(const pack*)(first + (size_t)i * C);
    }
};

__device__ double sigmoid(double x) { return 1 / (1 + exp(-x)); }
__device__ float sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); }           // right to 1e-6, and fast

extern "C" __global__ void __launch_bounds__(256) group_norm(
    const number* __restrict__ x, const real* gamma, const real* beta, number* __restrict__ y, real* mean, real* rstd,
    int L, int C, int width, int held, real eps, int silu)
{
    Shared shared;
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * V, groups = C / width, pixels = c < C ? L : 0;
    size_t first = (size_t)blockIdx.y * L * C + c;
    Column xs = {x + first, shared.packs, C, held};
    real sum[V] = {}, m[V], r[V], scale[V], shift[V];
#pragma unroll 4
    for (int i = threadIdx.y; i < pixels; i += blockDim.y) {
        pack z = xs.read(i);
        for (int v = 0; v < V; v++) sum[v] += load(z.at[v]);
    }
    shared.sum_lanes(sum);
    shared.group_means((real)L * width, width, false, m);
    for (int v = 0; v < V; v++) sum[v] = 0;
#pragma unroll 4
    for (int i = threadIdx.y; i < pixels; i += blockDim.y) {
        pack z = xs.again(i);
        for (int v = 0; v < V; v++) {
            real centred = load(z.at[v]) - m[v];
            sum[v] += centred * centred;
        }
    }
    shared.sum_lanes(sum);
    shared.group_means((real)L * width, width, false, r);
    if (!pixels) return;
    for (int v = 0; v < V; v++) {
        r[v] = 1 / sqrt(r[v] + eps);
        if (threadIdx.y == 0 && (c + v) % width == 0) {
            mean[blockIdx.y * groups + (c + v) / width] = m[v];
            rstd[blockIdx.y * groups + (c + v) / width] = r[v];
        }
        scale[v] = r[v] * gamma[c + v], shift[v] = beta[c + v];
    }
#pragma unroll 4
    for (int i = threadIdx.y; i < pixels; i += blockDim.y) {
        pack z = xs.again(i);
        for (int v = 0; v < V; v++) {
            real normal = (load(z.at[v]) - m[v]) * scale[v] + shift[v];
            z.at[v] = store(silu ? normal * sigmoid(normal) : normal);
        }
        *(pack*)(y + first + (size_t)i * C) = z;
    }
}

// The gradient between the norm and SiLU
__device__ real through_silu(real dy, real normal, real gamma, real beta, int silu)
{
    if (!silu) return dy;
    real z = normal * gamma + beta, s = sigmoid(z);
    return dy * s * (1 + z * (1 - s));
}

// dgamma, dbeta (N, C): separate sums for each sample
extern "C" __global__ void __launch_bounds__(256) group_norm_backward(
    const number* __restrict__ dy, const number* __restrict__ x, const real* gamma, const real* beta, const real* mean,
    const real* rstd, number* __restrict__ dx, real* dgamma, real* dbeta, int L, int C, int width, int held, int silu)
{
    Shared shared;
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * V, groups = C / width, pixels = c < C ? L : 0;
    size_t first = (size_t)blockIdx.y * L * C + c;
    Column xs = {x + first, shared.packs, C, held}, dys = {dy + first, shared.packs + held * blockDim.x, C, held};
    real m[V] = {}, r[V] = {}, scale[V] = {}, shift[V] = {}, sum[V] = {}, sum_normal[V] = {}, mean_dn[V], mean_dn_n[V];
    if (pixels)
        for (int v = 0; v < V; v++) {
            int group = blockIdx.y * groups + (c + v) / width;
            m[v] = mean[group], r[v] = rstd[group], scale[v] = gamma[c + v], shift[v] = beta[c + v];
        }
#pragma unroll 4
    for (int i = threadIdx.y; i < pixels; i += blockDim.y) {
        pack z = xs.read(i), dz = dys.read(i);
        for (int v = 0; v < V; v++) {
            real normal = (load(z.at[v]) - m[v]) * r[v];
            real dnormal = through_silu(load(dz.at[v]), normal, scale[v], shift[v], silu);
            sum[v] += dnormal;
            sum_normal[v] += dnormal * normal;
        }
    }
    if (threadIdx.y == 0) for (int v = 0; v < V; v++) shared.factors[threadIdx.x * V + v] = scale[v];
    shared.sum_lanes(sum);
    if (pixels && threadIdx.y == 0)
        for (int v = 0; v < V; v++) dbeta[blockIdx.y * C + c + v] = shared.sums[threadIdx.x * V + v];
    shared.group_means((real)L * width, width, true, mean_dn);
    shared.sum_lanes(sum_normal);
    if (pixels && threadIdx.y == 0)
        for (int v = 0; v < V; v++) dgamma[blockIdx.y * C + c + v] = shared.sums[threadIdx.x * V + v];
    shared.group_means((real)L * width, width, true, mean_dn_n);
#pragma unroll 4
    for (int i = threadIdx.y; i < pixels; i += blockDim.y) {
        pack z = xs.again(i), dz = dys.again(i);
        for (int v = 0; v < V; v++) {
            real normal = (load(z.at[v]) - m[v]) * r[v];
            real dnormal = through_silu(load(dz.at[v]), normal, scale[v], shift[v], silu);
            z.at[v] = store(r[v] * (dnormal * scale[v] - mean_dn[v] - normal * mean_dn_n[v]));
        }
        *(pack*)(dx + first + (size_t)i * C) = z;
    }
}
