// Group normalization, alone or with SiLU: a block handles whole groups of one sample; threads (channel, lane).

// The sum over the block's lanes of one number for each channel and lane
__device__ real lane_sum(real value, real* shared)
{
    shared[threadIdx.y * blockDim.x + threadIdx.x] = value;
    __syncthreads();
    if (threadIdx.y == 0) {
        for (int lane = 1; lane < blockDim.y; lane++) value += shared[lane * blockDim.x + threadIdx.x];
        shared[threadIdx.x] = value;
    }
    __syncthreads();
    value = shared[threadIdx.x];
    __syncthreads();
    return value;
}

// The sum over the `width` channels of the thread's group of one number for each channel
__device__ real group_sum(real value, int width, real* shared)
{
    if (threadIdx.y == 0) shared[threadIdx.x] = value;
    __syncthreads();
    int first = threadIdx.x / width * width;
    real sum = 0;
    for (int c = first; c < first + width; c++) sum += shared[c];
    __syncthreads();
    return sum;
}

__device__ real sigmoid(real x) { return 1 / (1 + exp(-x)); }

extern "C" __global__ void group_norm(const real* x, const real* gamma, const real* beta, real* y, real* mean,
                                      real* rstd, int L, int C, int width, real eps, int silu)
{
    __shared__ real shared[1024];
    int c = blockIdx.x * blockDim.x + threadIdx.x, groups = C / width;
    bool there = c < C;
    size_t first = (size_t)blockIdx.y * L * C + c;
    real sum = 0;
    if (there) for (int i = threadIdx.y; i < L; i += blockDim.y) sum += x[first + (size_t)i * C];
    real m = group_sum(lane_sum(sum, shared), width, shared) / ((real)L * width);
    sum = 0;
    if (there) for (int i = threadIdx.y; i < L; i += blockDim.y) {
        real centred = x[first + (size_t)i * C] - m;
        sum += centred * centred;
    }
    real r = 1 / sqrt(group_sum(lane_sum(sum, shared), width, shared) / ((real)L * width) + eps);
    if (!there) return;
    if (threadIdx.y == 0 && c % width == 0) {
        mean[blockIdx.y * groups + c / width] = m;
        rstd[blockIdx.y * groups + c / width] = r;
    }
    for (int i = threadIdx.y; i < L; i += blockDim.y) {
        real z = (x[first + (size_t)i * C] - m) * r * gamma[c] + beta[c];
        y[first + (size_t)i * C] = silu ? z * sigmoid(z) : z;
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
extern "C" __global__ void group_norm_backward(const real* dy, const real* x, const real* gamma, const real* beta,
                                               const real* mean, const real* rstd, real* dx, real* dgamma, real* dbeta,
                                               int L, int C, int width, int silu)
{
    __shared__ real shared[1024];
    int c = blockIdx.x * blockDim.x + threadIdx.x, group = blockIdx.y * (C / width) + c / width;
    bool there = c < C;
    size_t first = (size_t)blockIdx.y * L * C + c;
    real m = 0, r = 0, scale = 0, shift = 0, sum = 0, sum_normal = 0;
    if (there) {
        m = mean[group], r = rstd[group], scale = gamma[c], shift = beta[c];
        for (int i = threadIdx.y; i < L; i += blockDim.y) {
            size_t at = first + (size_t)i * C;
            real normal = (x[at] - m) * r, dz = through_silu(dy[at], normal, scale, shift, silu);
            sum += dz;
            sum_normal += dz * normal;
        }
    }
    sum = lane_sum(sum, shared);
    sum_normal = lane_sum(sum_normal, shared);
    real mean_dn = group_sum(sum * scale, width, shared) / ((real)L * width);
    real mean_dn_n = group_sum(sum_normal * scale, width, shared) / ((real)L * width);
    if (!there) return;
    if (threadIdx.y == 0) {
        dbeta[blockIdx.y * C + c] = sum;
        dgamma[blockIdx.y * C + c] = sum_normal;
    }
    for (int i = threadIdx.y; i < L; i += blockDim.y) {
        size_t at = first + (size_t)i * C;
        real normal = (x[at] - m) * r, dz = through_silu(dy[at], normal, scale, shift, silu);
        dx[at] = r * (dz * scale - mean_dn - normal * mean_dn_n);
    }
}
