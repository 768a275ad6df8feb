// The norm of the gradient; Adam and the moving average.

// sums (blocks): each block's part of the sum of the squares of x, which has `size` packs
extern "C" __global__ void sum_squares(const real* x, real* sums, int size)
{
    __shared__ real shared[256];
    real sum = 0;
#pragma unroll 4
    for (int i = thread(); i < size; i += gridDim.x * 256) {
        Pack<real, V> z = ((const Pack<real, V>*)x)[i];
        for (int v = 0; v < V; v++) sum += z.at[v] * z.at[v];
    }
    shared[threadIdx.x] = sum;
    for (int half = 128; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = shared[0];
}

// grad_scale is read on the device; if it is not finite, nothing changes
extern "C" __global__ void adam_ema(real* values, const real* grads, real* m, real* v, real* ema,
                                    const real* grad_scale, real rate, real correction, real one_minus_beta1,
                                    real one_minus_beta2, real eps, real one_minus_decay, int size)
{
    int i = thread();
    if (i >= size || !(fabs(*grad_scale) <= 1e38f)) return;
    real g = grads[i] * *grad_scale;
    real mi = m[i] + one_minus_beta1 * (g - m[i]), vi = v[i] + one_minus_beta2 * (g * g - v[i]);
    real value = values[i] - rate * mi / (sqrt(vi) * correction + eps);
    m[i] = mi, v[i] = vi, values[i] = value;
    ema[i] += one_minus_decay * (value - ema[i]);
}
