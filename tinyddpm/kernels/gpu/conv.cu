// Convolutions and linear maps as products of matrices that exist only in shared memory, an "implicit GEMM":
//
//   y[m, k]  = sum over p, q, c of x[m + (p, q), c] w[p, q, c, k]           m: a pixel, counted over all images
//   dx[m, c] = sum over p, q, k of dy[m - (p, q), k] w[p, q, c, k]          the same, with the kernel's shifts reversed
//   dw[p, q, c, k] = sum over m of x[m + (p, q), c] dy[m, k]
//
// Result and source have the same size, and pixels lie in raster order: a shift by (p, q) is a distance of p W + q. A
// block makes TILE pixels by TILE channels of y. It goes through the source's channels by slabs of 128 bytes, and in a
// slab through the rows p of the kernel. For each it copies one patch of pixels, of which every q uses another part:
//
//     pixels of x     first - 1                      first + TILE             the slab's channels: one line of
//                         [.|.|.|.|.|.|.|.|.|.|.|.|.]                          shared memory for each pixel
//                  q = 0: [-----------------------]
//                  q = 1:   [-----------------------]       for pixels at the edge of an image, whose neighbour
//                  q = 2:     [-----------------------]     is none, threads read a line of zeros
//
// and for each (p, q) a slab of w by TILE channels. Copies run STAGES - 2 slabs ahead of the products; those of the slab
// before may still run. Reading the patch once for three q saves the way from the L2 cache, which limits such kernels
// more than the tensor cores do; two blocks on each multiprocessor fill each other's pauses.
//
// All numbers pass through 16-byte packs; C and `width`, the channels in memory, are multiples of those (product.py
// pads others with zeros).

const int SLAB = 128 / sizeof(number), PACK = 16 / sizeof(number);         // numbers in a line, and in a pack
const bool TENSOR = NARROW == 1 || NARROW == 2;
const int GROUPS = TENSOR && TILE == 128 ? 2 : 1, T = 128 * GROUPS;        // groups of four warps; threads
const int BLOCKS = TILE / GROUPS / 64, SIDE = TILE * 128;                  // 64-row blocks of a group; bytes of a slab

// ---- shared memory: packs are permuted within a line, so that a warp that reads down a column meets all banks ----

INLINE int place(int line, int pack) { return line * 128 + ((pack ^ (line & 7)) << 4); }

// Where number (i, k) of a tile lies: in line i, or ACROSS the lines: in line k of the panel of SLAB columns that has i
template <bool ACROSS> INLINE const char* within(const char* tile, int i, int k)
{
    return ACROSS ? tile + i / SLAB * SLAB * 128 + place(k, i % SLAB / PACK) + i % PACK * (int)sizeof(number)
                  : tile + place(i, k / PACK) + k % PACK * (int)sizeof(number);
}

// A pixel's line
struct Line {
    const char* start;
    int turn;
    INLINE const char* at(int k) const { return start + ((k / PACK ^ turn) << 4) + k % PACK * (int)sizeof(number); }
};

INLINE char* aligned(char* p) { return p + (-(unsigned long long)p & 1023); }          // as Hopper's products want it

// ---- c += left right for a slab, each thread its part of every 16x8 of c (see instructions.cu) ----

// The left number's numbers for 16 rows by DEPTH; ROWS: of how many rows a thread gives the address
#if NARROW == 1 || NARROW == 2
const int DEPTH = 16, ROWS = 1;
struct Fragment { unsigned at[4]; };
template <bool ACROSS> INLINE int row_of_thread(int)
{
    return ACROSS ? threadIdx.x / 8 % 2 * 8 : threadIdx.x % 16;
}
template <bool ACROSS, class At> INLINE void load_left(Fragment& f, At at, int k)
{
    int lane = threadIdx.x % 32;
    if (ACROSS) load_transposed(f.at, at(0, k + lane % 8 + lane / 16 * 8));
    else load_matrices(f.at, at(0, k + lane / 16 * 8));
}
#else
const int ROWS = 2;
template <bool ACROSS> INLINE int row_of_thread(int r) { return threadIdx.x % 32 / 4 + 8 * r; }
#if NARROW == 3
const int DEPTH = 8;
struct Fragment { unsigned at[4]; };
template <bool ACROSS, class At> INLINE void load_left(Fragment& f, At at, int k)
{
    for (int i = 0; i < 4; i++) f.at[i] = to_tf32(*(const real*)at(i % 2, k + threadIdx.x % 4 + i / 2 * 4));
}
#else
const int DEPTH = PACK;
struct Fragment { Pack<real, PACK> at[2]; };
template <bool ACROSS, class At> INLINE void load_left(Fragment& f, At at, int k)
{
    for (int i = 0; i < 2; i++)
        if (ACROSS) for (int d = 0; d < PACK; d++) f.at[i].at[d] = *(const real*)at(i, k + d);
        else f.at[i] = *(const Pack<real, PACK>*)at(i, k);
}
#endif
#endif

#if WGMMA
const int AHEAD = SLAB / DEPTH;                 // fragments that are loaded before their products begin
#else
const int AHEAD = 1;
#endif

template <bool ACROSS> INLINE void multiply(real (&c)[BLOCKS][TILE / 8][4], Fragment (&left)[BLOCKS], const char* right,
                                            int k)
{
    int lane = threadIdx.x % 32;
#if WGMMA
    // What the tensor core must know of `right`: its address, the steps from panel to panel and from eight lines to the
    // next, and that packs are permuted.
    unsigned long long panel = SLAB * 128, eight = 8 * 128, permuted = 1ull << 62;
    unsigned long long descriptor = shared_address(right + (ACROSS ? k * 128 : k * 2)) >> 4 | panel >> 4 << 16
        | eight >> 4 << 32 | permuted;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) group_multiply_add<ACROSS>(c[b], left[b].at, descriptor);
#elif NARROW == 1 || NARROW == 2
#pragma unroll
    for (int j = 0; j < TILE / 8; j += 2) {
        unsigned two[4];
        if (ACROSS) load_transposed(two, within<true>(right, 8 * j + lane / 16 * 8, k + lane % 16));
        else load_matrices(two, within<false>(right, 8 * j + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
            multiply_add(c[b][j], left[b].at, two), multiply_add(c[b][j + 1], left[b].at, two + 2);
    }
#elif NARROW == 3
#pragma unroll
    for (int j = 0; j < TILE / 8; j++) {
        unsigned two[2];
        for (int e = 0; e < 2; e++)
            two[e] = to_tf32(*(const real*)within<ACROSS>(right, 8 * j + lane / 4, k + lane % 4 + 4 * e));
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) multiply_add(c[b][j], left[b].at, two);
    }
#else
#pragma unroll
    for (int j = 0; j < TILE / 8; j++) {
        real two[2][PACK];                      // columns, as they lie in memory: side by side, or below each other
        for (int d = 0; d < PACK; d++)
            if (ACROSS) {
                Pack<real, 2> row = *(const Pack<real, 2>*)within<true>(right, 8 * j + lane % 4 * 2, k + d);
                two[0][d] = row.at[0], two[1][d] = row.at[1];
            }
        for (int e = 0; e < 2; e++)
            if (!ACROSS)
                *(Pack<real, PACK>*)two[e] = *(const Pack<real, PACK>*)within<false>(right, 8 * j + lane % 4 * 2 + e, k);
#pragma unroll
        for (int d = 0; d < PACK; d++)
#pragma unroll
            for (int e = 0; e < 2; e++)
#pragma unroll
                for (int b = 0; b < BLOCKS; b++)
                    for (int half = 0; half < 2; half++) c[b][j][2 * half + e] += left[b].at[half].at[d] * two[e][d];
    }
#endif
}

// at(b, r, k): the address of the left's number in the thread's row r of block b; `rest` numbers of the slab count
template <bool ACROSS_LEFT, bool ACROSS, class At>
INLINE void multiply_slab(real (&c)[BLOCKS][TILE / 8][4], At at, const char* right, int rest)
{
#pragma unroll
    for (int start = 0; start < SLAB; start += AHEAD * DEPTH) {
        if (start >= rest) break;
        wait_for_products<0>();                 // of the slab before, whose registers these use
        Fragment left[AHEAD][BLOCKS];
#pragma unroll
        for (int n = 0; n < AHEAD; n++)
#pragma unroll
            for (int b = 0; b < BLOCKS; b++)
                load_left<ACROSS_LEFT>(left[n][b], [&](int r, int k) { return at(b, r, k); }, start + n * DEPTH);
        fence_products();
#pragma unroll
        for (int n = 0; n < AHEAD; n++) multiply<ACROSS>(c, left[n], right, start + n * DEPTH);
        commit_products();
    }
}

// ---- the result, or the gradient by x ----

// Copies the next slab of w, and with the first of a kernel's row its patch of x
template <bool BACKWARD> struct Source {
    const number *x, *w;
    int M, W, C, width, kh, kw, first, column, patch, patch_bytes, ring;
    char *tiles, *patches;
    int left, slab, p, q, tile, filled;

    INLINE void fetch()
    {
        if (left-- > 0) {
            if (q == 0) fetch_patch();
            fetch_weights();
            if (++q == kw) {
                q = 0;
                if (++p == kh) p = 0, slab += SLAB;
            }
        }
        commit_copies();
        if (++tile == STAGES) tile = 0;
    }

    INLINE void fetch_patch()
    {
        int pack = threadIdx.x % 8, line = threadIdx.x / 8;
        int from = first + (BACKWARD ? kh / 2 - p : p - kh / 2) * W - (BACKWARD ? kw - 1 - kw / 2 : kw / 2);
        const number* source = x + (long long)from * C + slab + pack * PACK;
        char* to = patches + filled * patch_bytes;
        for (int r = line; r < patch; r += T / 8) {
            bool there = from + r >= 0 && from + r < M && slab + pack * PACK < C;
            copy_async(to + place(r, pack), there ? source + r * C : x, there);
        }
        if (++filled == ring) filled = 0;
    }

    INLINE void fetch_weights()
    {
        // In memory, w's rows are c and its columns k. For the gradient by x they are read in lines of k.
        const int PACKS = BACKWARD ? 8 : TILE / PACK, LINES = T / PACKS;
        int pack = threadIdx.x % PACKS, line = threadIdx.x / PACKS, position = p * kw + q;
        int row = (BACKWARD ? column : slab) + line, across = (BACKWARD ? slab : column) + pack * PACK;
        int rows = BACKWARD ? width : C, columns = BACKWARD ? C : width;
        const number* source = w + (position * rows + row) * columns + across;
        char* to = tiles + tile * SIDE + pack / 8 * SLAB * 128;
#pragma unroll
        for (int l = 0; l < TILE * 8 / T; l++) {
            bool there = row + l * LINES < rows && across < columns;
            copy_async(to + place(line + l * LINES, pack % 8), there ? source + l * LINES * columns : w, there);
        }
    }
};

// y (M, K) = the products + bias + shift of its image + other, each of which may be absent
template <bool BACKWARD>
INLINE void convolve(const number* __restrict__ x, const number* __restrict__ w, const real* __restrict__ bias,
                     const real* __restrict__ shift, const number* __restrict__ other, number* __restrict__ y, int M,
                     int H, int W, int C, int K, int width, int kh, int kw)
{
    int across = (K + TILE - 1) / TILE, first = blockIdx.x / across * TILE, column = blockIdx.x % across * TILE;
    int patch = TILE + kw - 1, patch_bytes = (patch * 128 + 1023) / 1024 * 1024, ring = (STAGES - 2 + kw) / kw + 1;
    char *tiles = aligned(dynamic), *patches = tiles + STAGES * SIDE, *zeros = patches + ring * patch_bytes;
    int t = threadIdx.x, lane = t % 32, rows = t / 128 * (TILE / GROUPS) + t / 32 % 4 * 16;        // of the warp
    Source<BACKWARD> source = {x, w, M, W, C, width, kh, kw, first, column, patch, patch_bytes, ring, tiles, patches,
                               (C + SLAB - 1) / SLAB * kh * kw};
    if (t < 8) *(Pack<number, PACK>*)(zeros + 16 * t) = {};
    int i[BLOCKS][ROWS], j[BLOCKS][ROWS];
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            int m = first + rows + 64 * b + row_of_thread<false>(r);
            i[b][r] = m / W % H, j[b][r] = m % W;
        }
    real c[BLOCKS][TILE / 8][4] = {};
#pragma unroll
    for (int n = 0; n < STAGES - 2; n++) source.fetch();
    int tile = 0, now = 0;
    for (int rest = C; rest > 0; rest -= SLAB)
        for (int p = 0; p < kh; p++) {
            int down = BACKWARD ? kh / 2 - p : p - kh / 2;
            for (int q = 0; q < kw; q++) {
                wait_for_copies<STAGES - 3>();
                begin_products();
                __syncthreads();
                source.fetch();             // while the products of the slab before still run
                int right = BACKWARD ? kw / 2 - q : q - kw / 2, along = BACKWARD ? kw - 1 - q : q;
                Line line[BLOCKS][ROWS];
#pragma unroll
                for (int b = 0; b < BLOCKS; b++)
#pragma unroll
                    for (int r = 0; r < ROWS; r++) {
                        int at = rows + 64 * b + row_of_thread<false>(r) + along;
                        bool there = (unsigned)(i[b][r] + down) < H && (unsigned)(j[b][r] + right) < W;
                        line[b][r] = {there ? patches + now * patch_bytes + at * 128 : zeros, there ? at & 7 : 0};
                    }
                multiply_slab<false, !BACKWARD>(c, [&](int b, int r, int k) { return line[b][r].at(k); },
                                                tiles + tile * SIDE, rest);
                if (++tile == STAGES) tile = 0;
            }
            if (++now == ring) now = 0;
        }

    // Through shared memory, so that threads write whole packs of y
    const int PITCH = TILE + 8, WIDE = 16 / sizeof(number);
    real* result = (real*)tiles;
    wait_for_products<0>();
    wait_for_copies<0>();
    __syncthreads();
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                real* two = result + (rows + 64 * b + 8 * half + lane / 4) * PITCH + 8 * j + lane % 4 * 2;
                *(Pack<real, 2>*)two = {c[b][j][2 * half], c[b][j][2 * half + 1]};
            }
    __syncthreads();
    int k = column + t % (TILE / WIDE) * WIDE;
    real biases[WIDE] = {};
    for (int e = 0; bias && e < WIDE && k + e < K; e++) biases[e] = bias[k + e];
    for (int n = t / (TILE / WIDE); n < TILE; n += T * WIDE / TILE) {
        int m = first + n;
        if (m >= M || k >= K) continue;
        long long at = (long long)m * K + k;
        Pack<real, WIDE> values = *(const Pack<real, WIDE>*)(result + n * PITCH + k - column);
        const real* of_image = shift ? shift + (long long)(m / (H * W)) * K + k : 0;
        Pack<number, WIDE> whole;
        bool in_one = K % WIDE == 0;
        if (other && in_one) whole = *(const Pack<number, WIDE>*)(other + at);
#pragma unroll
        for (int e = 0; e < WIDE; e++) {
            if (k + e >= K) break;
            real value = values.at[e] + biases[e];
            if (of_image) value += of_image[e];
            if (other) value += load(in_one ? whole.at[e] : other[at + e]);
            whole.at[e] = store(value);
            if (!in_one) y[at + e] = whole.at[e];
        }
        if (in_one) *(Pack<number, WIDE>*)(y + at) = whole;
    }
}

extern "C" __global__ void __launch_bounds__(T, 2) convolve(
    const number* x, const number* w, const real* bias, const real* shift, const number* other, number* y, int M, int H,
    int W, int C, int K, int width, int kh, int kw)
{
    convolve<false>(x, w, bias, shift, other, y, M, H, W, C, K, width, kh, kw);
}

extern "C" __global__ void __launch_bounds__(T, 2) convolve_backward(
    const number* dy, const number* w, const real* bias, const real* shift, const number* other, number* dx, int M,
    int H, int W, int C, int K, int width, int kh, int kw)
{
    convolve<true>(dy, w, bias, shift, other, dx, M, H, W, C, K, width, kh, kw);
}

// ---- the gradient by w ----

// parts (splits, kh kw channels, K): sums over `each` slabs of pixels. A tile has TILE of the kernel's kh kw C rows
// (p, q, c) and TILE channels k; both operands lie across the lines, which are pixels.
extern "C" __global__ void __launch_bounds__(T, 2) weight_gradient(
    const number* __restrict__ x, const number* __restrict__ dy, real* __restrict__ parts, int M, int H, int W, int C,
    int K, int width, int channels, int kh, int kw, int each)
{
    const int PACKS = TILE / PACK, LINES = T / PACKS, COUNT = SLAB / LINES;        // COUNT: copies of each number
    int across = (K + TILE - 1) / TILE, first = blockIdx.x / across * TILE, column = blockIdx.x % across * TILE;
    int t = threadIdx.x, lane = t % 32, rows = t / 128 * (TILE / GROUPS) + t / 32 % 4 * 16;
    int begin = blockIdx.y * each, steps = min(each, (M + SLAB - 1) / SLAB - begin), F = kh * kw * C;
    char* tiles = aligned(dynamic);
    // A thread always copies the same (p, q, c), and of dy the same k; its pixels (i, j) advance by a slab.
    int pack = t % PACKS, line = t / PACKS, f = first + pack * PACK, k = column + pack * PACK, m = begin * SLAB + line;
    int down = f / C / kw - kh / 2, right = f / C % kw - kw / 2;
    const number* from_x = x + ((long long)m + down * W + right) * C + f % C;
    const number* from_dy = dy + (long long)m * width + k;
    int i[COUNT], j[COUNT], step_i = SLAB / W % H, step_j = SLAB % W;
#pragma unroll
    for (int l = 0; l < COUNT; l++) i[l] = (m + l * LINES) / W % H, j[l] = (m + l * LINES) % W;
    auto fetch = [&](int stage) {
        char* to = tiles + stage * 2 * SIDE + pack / 8 * SLAB * 128;
#pragma unroll
        for (int l = 0; l < COUNT; l++) {
            bool inside = m + l * LINES < M;
            bool there = inside && f < F && (unsigned)(i[l] + down) < H && (unsigned)(j[l] + right) < W;
            int at = place(line + l * LINES, pack % 8);
            copy_async(to + at, there ? from_x + l * LINES * C : x, there);
            there = inside && k < width;
            copy_async(to + SIDE + at, there ? from_dy + l * LINES * width : dy, there);
            i[l] += step_i, j[l] += step_j;
            if (j[l] >= W) j[l] -= W, i[l]++;
            if (i[l] >= H) i[l] -= H;
        }
        m += SLAB, from_x += SLAB * C, from_dy += SLAB * width;
    };
    real c[BLOCKS][TILE / 8][4] = {};
#pragma unroll
    for (int n = 0; n < STAGES - 1; n++) {
        if (n < steps) fetch(n);
        commit_copies();
    }
    for (int step = 0, stage = 0; step < steps; step++) {
        wait_for_copies<STAGES - 2>();
        begin_products();
        __syncthreads();
        if (step + STAGES - 1 < steps) fetch(stage == 0 ? STAGES - 1 : stage - 1);
        commit_copies();
        const char* x_tile = tiles + stage * 2 * SIDE;
        multiply_slab<true, true>(c, [&](int b, int r, int k) {
            return within<true>(x_tile, rows + 64 * b + row_of_thread<true>(r), k);
        }, x_tile + SIDE, SLAB);
        wait_for_products<0>();
        if (++stage == STAGES) stage = 0;
    }
    parts += (long long)blockIdx.y * kh * kw * channels * K;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first + rows + 64 * b + 8 * half + lane / 4;
            if (row >= F || row % C >= channels) continue;
            real* target = parts + (long long)(row / C * channels + row % C) * K;
#pragma unroll
            for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int k = column + 8 * j + lane % 4 * 2 + e;
                    if (k < K) target[k] = c[b][j][2 * half + e];
                }
        }
}
