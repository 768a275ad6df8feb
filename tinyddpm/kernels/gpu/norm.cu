// Group normalization, alone or with SiLU: a block has whole groups of one sample; threads (pack of V channels, lane).

const int CHANNELS = 256 * V;           // at most, of a block

// In `sums`: for each channel of the block, the sum over the lanes of the numbers that its threads give
__device__ void lane_sums(const real* values, real* sums)
{
    int channels = blockDim.x * V, threads = blockDim.x * blockDim.y;
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

// The means over the groups of the thread's channels, from sums of each channel that all threads see
__device__ void group_means(const real* sums, const real* factors, real* means, real count, int width, real* result)
{
    int channels = blockDim.x * V, threads = blockDim.x * blockDim.y;
    for (int g = threadIdx.y * blockDim.x + threadIdx.x; g < channels / width; g += threads) {
        real sum = 0;
        for (int c = g * width; c < (g + 1) * width; c++) sum += sums[c] * (factors ? factors[c] : 1);
        means[g] = sum / count;
    }
    __syncthreads();
    for (int v = 0; v < V; v++) result[v] = means[(threadIdx.x * V + v) / width];
    __syncthreads();
}

__device__ double sigmoid(double x) { return 1 / (1 + exp(-x)); }
__device__ float sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); }           // right to 1e-6, and fast

extern "C" __global__ void group_norm(const number* __restrict__ x, const real* gamma, const real* beta,
                                      number* __restrict__ y, real* mean, real* rstd, int L, int C, int width, real eps,
                                      int silu)
{
    typedef Pack<number, V> pack;
    __shared__ real sums[CHANNELS], means[CHANNELS];
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * V, groups = C / width;
    bool there = c < C;
    size_t first = (size_t)blockIdx.y * L * C + c;
    real sum[V] = {}, m[V], r[V], scale[V], shift[V];
    if (there)
#pragma unroll 4
        for (int i = threadIdx.y; i < L; i += blockDim.y) {
            pack z = *(const pack*)(x + first + (size_t)i * C);
            for (int v = 0; v < V; v++) sum[v] += load(z.at[v]);
        }
    lane_sums(sum, sums);
    group_means(sums, 0, means, (real)L * width, width, m);
    for (int v = 0; v < V; v++) sum[v] = 0;
    if (there)
#pragma unroll 4
        for (int i = threadIdx.y; i < L; i += blockDim.y) {
            pack z = *(const pack*)(x + first + (size_t)i * C);
            for (int v = 0; v < V; v++) {
                real centred = load(z.at[v]) - m[v];
                sum[v] += centred * centred;
            }
        }
    lane_sums(sum, sums);
    group_means(sums, 0, means, (real)L * width, width, r);
    if (!there) return;
    for (int v = 0; v < V; v++) {
        r[v] = 1 / sqrt(r[v] + eps);
        if (threadIdx.y == 0 && (c + v) % width == 0) {
            mean[blockIdx.y * groups + (c + v) / width] = m[v];
            rstd[blockIdx.y * groups + (c + v) / width] = r[v];
        }
        scale[v] = r[v] * gamma[c + v], shift[v] = beta[c + v];
    }
#pragma unroll 4
    for (int i = threadIdx.y; i < L; i += blockDim.y) {
        pack z = *(const pack*)(x + first + (size_t)i * C);
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
extern "C" __global__ void group_norm_backward(const number* __restrict__ dy, const number* __restrict__ x,
                                               const real* gamma, const real* beta, const real* mean, const real* rstd,
                                               number* __restrict__ dx, real* dgamma, real* dbeta, int L, int C,
                                               int width, int silu)
{
    typedef Pack<number, V> pack;
    __shared__ real sums[CHANNELS], means[CHANNELS], factors[CHANNELS];
    int c = (blockIdx.x * blockDim.x + threadIdx.x) * V, groups = C / width;
    bool there = c < C;
    size_t first = (size_t)blockIdx.y * L * C + c;
    real m[V] = {}, r[V] = {}, scale[V] = {}, shift[V] = {}, sum[V] = {}, sum_normal[V] = {}, mean_dn[V], mean_dn_n[V];
    if (there) {
        for (int v = 0; v < V; v++) {
            int group = blockIdx.y * groups + (c + v) / width;
            m[v] = mean[group], r[v] = rstd[group], scale[v] = gamma[c + v], shift[v] = beta[c + v];
        }
#pragma unroll 2
        for (int i = threadIdx.y; i < L; i += blockDim.y) {
            size_t at = first + (size_t)i * C;
            pack xs = *(const pack*)(x + at), dys = *(const pack*)(dy + at);
            for (int v = 0; v < V; v++) {
                real normal = (load(xs.at[v]) - m[v]) * r[v];
                real dz = through_silu(load(dys.at[v]), normal, scale[v], shift[v], silu);
                sum[v] += dz;
                sum_normal[v] += dz * normal;
            }
        }
    }
    if (threadIdx.y == 0) for (int v = 0; v < V; v++) factors[threadIdx.x * V + v] = scale[v];
    lane_sums(sum, sums);
    if (there && threadIdx.y == 0)
        for (int v = 0; v < V; v++) dbeta[blockIdx.y * C + c + v] = sums[threadIdx.x * V + v];
    group_means(sums, factors, means, (real)L * width, width, mean_dn);
    lane_sums(sum_normal, sums);
    if (there && threadIdx.y == 0)
        for (int v = 0; v < V; v++) dgamma[blockIdx.y * C + c + v] = sums[threadIdx.x * V + v];
    group_means(sums, factors, means, (real)L * width, width, mean_dn_n);
    if (!there) return;
#pragma unroll 2
    for (int i = threadIdx.y; i < L; i += blockDim.y) {
        size_t at = first + (size_t)i * C;
        pack xs = *(const pack*)(x + at), dys = *(const pack*)(dy + at);
        for (int v = 0; v < V; v++) {
            real normal = (load(xs.at[v]) - m[v]) * r[v];
            real dz = through_silu(load(dys.at[v]), normal, scale[v], shift[v], silu);
            xs.at[v] = store(r[v] * (dz * scale[v] - mean_dn[v] - normal * mean_dn_n[v]));
        }
        *(pack*)(dx + at) = xs;
    }
}
