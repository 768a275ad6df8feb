// Adam and the moving average; grad_scale is read on the device; if it is not finite, nothing changes
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
