// C = Aᵀ * B of blocks of 256 small numbers without a sign (Q4_K, Q5_K, Q6_K) on a processor with AVX2 that cannot add up products
// of bytes, sooner than ggml's kernels, which compute one number of C at a time (Q5_K, Q6_K) or rearrange the weights in memory
// first (Q4_K). Products of bytes are added up as 16 bits as long as these hold them, multiplied by the scale of their part of the
// block, and stay whole numbers until the block's end; a lane is a row of its own, so that nothing is added up across lanes. What a
// number of C is made of is always added up in the same order, however many columns there are: each block's products as integers,
// then the blocks one after another.
//
// Put beside llama.cpp's ggml/src/ggml-cpu/llamafile/sgemm.cpp by setup/llama_source.py, and included there, in its namespace.

#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__AVX512F__) && !defined(__AVXVNNI__)
#define HAS_UNSIGNED_BLOCKS

#include "lanes.h"

static constexpr int64_t UNSIGNED_ROWS = 16;  // that are multiplied together: their number is a multiple of it

// Whether columns, one too, which llamafile leaves to ggml, are multiplied here.
static inline bool multiplies_unsigned_blocks(int64_t m, int Atype, int Btype) {
    return m % UNSIGNED_ROWS == 0 && Btype == GGML_TYPE_Q8_K &&
        (Atype == GGML_TYPE_Q4_K || Atype == GGML_TYPE_Q5_K || Atype == GGML_TYPE_Q6_K);
}

// One block of sixteen rows, unpacked: a lane is a row.
template <int SCALES> struct unsigned_rows {
    static constexpr int LANES = 8, VECTORS = UNSIGNED_ROWS / LANES;

    __m256i fours[QK_K / 4][VECTORS];    // four numbers that follow one another
    __m256i scales[SCALES][VECTORS];     // twice, as 16 bits
    __m256i offsets[QK_K / 32][VECTORS]; // two of 16 bits: what the sums of 16 numbers of a column are multiplied by
    __m256 scale[VECTORS], offset_scale[VECTORS];
};

// One block of one row times one of a column: sums whose lanes are still to be added up.
struct unsigned_sums {
    __m256i products;
    __m128i offsets;
};

// Bytes of eight rows, `stride` bytes from one to the next: afterwards a lane is a row, and has four bytes that follow one another.
struct eight_rows {
    // Sixteen bytes of each.
    static void transpose(const void * bytes, int64_t stride, __m256i * fours) {
        __m256i x[4];
        for (int row = 0; row < 4; ++row) {
            const char * start = (const char *) bytes + stride * row;
            x[row] = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *) start)),
                                             _mm_loadu_si128((const __m128i *) (start + stride * 4)), 1);
        }
        const __m256i a = _mm256_unpacklo_epi32(x[0], x[1]), b = _mm256_unpackhi_epi32(x[0], x[1]);
        const __m256i c = _mm256_unpacklo_epi32(x[2], x[3]), d = _mm256_unpackhi_epi32(x[2], x[3]);
        fours[0] = _mm256_unpacklo_epi64(a, c);
        fours[1] = _mm256_unpackhi_epi64(a, c);
        fours[2] = _mm256_unpacklo_epi64(b, d);
        fours[3] = _mm256_unpackhi_epi64(b, d);
    }

    // Thirty-two bytes of each.
    static void transpose32(const void * bytes, int64_t stride, __m256i (&fours)[8]) {
        transpose(bytes, stride, fours);
        transpose((const char *) bytes + 16, stride, fours + 4);
    }

    static __m256i low_nibbles(__m256i bytes) {
        return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    }

    static __m256i high_nibbles(__m256i bytes) {
        return _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
    }
};

// What the blocks of a type are made of. ADDED: of how many fours 16 bits hold the sum of products with bytes of -128 to 127.
template <typename TA> struct unsigned_type;

// Of Q4_K and Q5_K: eight parts, each with a scale and a minimum of six bits.
template <typename TA> struct unsigned_type_with_minimums {
    static constexpr int SCALES = 8;
    using rows = unsigned_rows<SCALES>;

    static unsigned_sums multiply(const TA & block, const block_q8_K & column) {
        uint32_t x[3];
        memcpy(x, block.scales, sizeof(x));
        const __m256i both = _mm256_cvtepu8_epi16(_mm_setr_epi32(
            x[0] & 0x3f3f3f3f, (x[2] & 0x0f0f0f0f) | ((x[0] >> 2) & 0x30303030),
            x[1] & 0x3f3f3f3f, ((x[2] >> 4) & 0x0f0f0f0f) | ((x[1] >> 2) & 0x30303030)));
        const __m256i scales = _mm256_permute4x64_epi64(both, 0x44);
        const __m128i minimums = _mm256_extracti128_si256(both, 1);
        const __m128i * sums = (const __m128i *) column.bsums;
        __m256i products = _mm256_setzero_si256();
        for (int pair = 0; pair < SCALES / 2; ++pair) {
            __m256i low = _mm256_loadu_si256((const __m256i *) block.qs + pair), high;
            unsigned_type<TA>::split(low, high, fifth_bits(block), pair);
            const __m256i * numbers = (const __m256i *) column.qs + 2 * pair;
            const __m256i of_low  = _mm256_maddubs_epi16(low, _mm256_loadu_si256(numbers));
            const __m256i of_high = _mm256_maddubs_epi16(high, _mm256_loadu_si256(numbers + 1));
            products = _mm256_add_epi32(products, _mm256_add_epi32(
                _mm256_madd_epi16(of_low, _mm256_shuffle_epi8(scales, _mm256_set1_epi16(4 * pair | (4 * pair + 1) << 8))),
                _mm256_madd_epi16(of_high, _mm256_shuffle_epi8(scales, _mm256_set1_epi16((4 * pair + 2) | (4 * pair + 3) << 8)))));
        }
        return {products, _mm_madd_epi16(minimums, _mm_hadd_epi16(_mm_loadu_si128(sums), _mm_loadu_si128(sums + 1)))};
    }

    // Of eight rows.
    static void unpack(const TA * blocks, int64_t stride, rows & to, int vector) {
        unpack_header(blocks, stride, to, vector);
        __m256i fifth[8] = {};
        if constexpr (unsigned_type<TA>::HAS_FIFTH_BITS) {
            eight_rows::transpose32(blocks->qh, stride, fifth);
        }
        for (int pair = 0; pair < SCALES / 2; ++pair) {
            __m256i low[8], high[8];
            eight_rows::transpose32(blocks->qs + 32 * pair, stride, low);
            for (int four = 0; four < 8; ++four) {
                unsigned_type<TA>::split(low[four], high[four], fifth[four], pair);
                to.fours[16 * pair + four][vector]     = low[four];
                to.fours[16 * pair + 8 + four][vector] = high[four];
            }
        }
    }

private:
    static __m256i fifth_bits(const block_q4_K &) {
        return _mm256_setzero_si256();
    }

    static __m256i fifth_bits(const block_q5_K & block) {
        return _mm256_loadu_si256((const __m256i *) block.qh);
    }

    // Two half floats, then the first four scales, the first four minimums, and the nibbles of the others, of which the highest two
    // bits are those of the first.
    static void unpack_header(const TA * blocks, int64_t stride, rows & to, int vector) {
        __m256i header[4];
        eight_rows::transpose(blocks, stride, header);
        const __m256i apart = _mm256_shuffle_epi8(header[0], _mm256_setr_epi8(
            0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
        const __m256i halves = _mm256_permute4x64_epi64(apart, 0xD8);
        to.scale[vector]        = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        to.offset_scale[vector] = _mm256_cvtph_ps(_mm256_extracti128_si256(halves, 1));
        const __m256i six = _mm256_set1_epi8(63), two = _mm256_set1_epi8(48);
        put(_mm256_and_si256(header[1], six), &to.scales[0], vector);
        put(_mm256_or_si256(eight_rows::low_nibbles(header[3]), _mm256_and_si256(_mm256_srli_epi16(header[1], 2), two)),
            &to.scales[4], vector);
        put(_mm256_and_si256(header[2], six), &to.offsets[0], vector);
        put(_mm256_or_si256(eight_rows::high_nibbles(header[3]), _mm256_and_si256(_mm256_srli_epi16(header[2], 2), two)),
            &to.offsets[4], vector);
    }

    static void put(__m256i bytes, __m256i (*to)[rows::VECTORS], int vector) {
        const __m256i lanes = _mm256_setr_epi32(0, 0x00040004, 0x00080008, 0x000C000C, 0, 0x00040004, 0x00080008, 0x000C000C);
        for (int byte = 0; byte < 4; ++byte) {
            const __m256i twice = _mm256_add_epi8(lanes, _mm256_set1_epi16((int16_t) (0x8000 | byte)));
            to[byte][vector] = _mm256_shuffle_epi8(bytes, twice);
        }
    }
};

template <> struct unsigned_type<block_q4_K> : unsigned_type_with_minimums<block_q4_K> {
    static constexpr int ADDED = 8;
    static constexpr bool HAS_FIFTH_BITS = false;

    static void split(__m256i & low, __m256i & high, __m256i, int) {
        high = eight_rows::high_nibbles(low);
        low  = eight_rows::low_nibbles(low);
    }
};

template <> struct unsigned_type<block_q5_K> : unsigned_type_with_minimums<block_q5_K> {
    static constexpr int ADDED = 4;
    static constexpr bool HAS_FIFTH_BITS = true;

    static void split(__m256i & low, __m256i & high, __m256i fifth, int pair) {
        const __m256i bit = _mm256_set1_epi8(16);
        const __m256i bits = pair < 2 ? _mm256_slli_epi16(fifth, 4 - 2 * pair) : _mm256_srli_epi16(fifth, 2 * pair - 4);
        high = _mm256_or_si256(eight_rows::high_nibbles(low), _mm256_and_si256(_mm256_srli_epi16(bits, 1), bit));
        low  = _mm256_or_si256(eight_rows::low_nibbles(low), _mm256_and_si256(bits, bit));
    }
};

// Of Q6_K: sixteen parts, each with a scale of eight bits, and numbers 32 too large.
template <> struct unsigned_type<block_q6_K> {
    static constexpr int SCALES = 16, ADDED = 2;
    using rows = unsigned_rows<SCALES>;

    static unsigned_sums multiply(const block_q6_K & block, const block_q8_K & column) {
        const __m128i scales = _mm_loadu_si128((const __m128i *) block.scales);
        const __m256i offsets = _mm256_madd_epi16(_mm256_cvtepi8_epi16(scales), _mm256_loadu_si256((const __m256i *) column.bsums));
        __m256i products = _mm256_slli_epi32(_mm256_sub_epi32(_mm256_setzero_si256(), offsets), 5);
        for (int half = 0; half < 2; ++half) {
            const __m256i * low = (const __m256i *) block.ql + 2 * half;
            __m256i numbers[4];
            join(_mm256_loadu_si256(low), _mm256_loadu_si256(low + 1), _mm256_loadu_si256((const __m256i *) block.qh + half), numbers);
            for (int part = 0; part < 4; ++part) {
                const int at = 4 * half + part;
                const __m128i two = _mm_add_epi8(_mm_set1_epi8(2 * at), _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
                const __m256i sums = _mm256_maddubs_epi16(numbers[part], _mm256_loadu_si256((const __m256i *) column.qs + at));
                const __m256i scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, two));
                products = _mm256_add_epi32(products, _mm256_madd_epi16(scale, sums));
            }
        }
        return {products, _mm_setzero_si128()};
    }

    // Of eight rows.
    static void unpack(const block_q6_K * blocks, int64_t stride, rows & to, int vector) {
        for (int half = 0; half < 2; ++half) {
            __m256i near[8], far[8], high[8];
            eight_rows::transpose32(blocks->ql + 64 * half, stride, near);
            eight_rows::transpose32(blocks->ql + 64 * half + 32, stride, far);
            eight_rows::transpose32(blocks->qh + 32 * half, stride, high);
            for (int four = 0; four < 8; ++four) {
                __m256i numbers[4];
                join(near[four], far[four], high[four], numbers);
                for (int part = 0; part < 4; ++part) {
                    to.fours[32 * half + 8 * part + four][vector] = numbers[part];
                }
            }
        }
        unpack_scales(blocks, stride, to, vector);
    }

private:
    static void join(__m256i near, __m256i far, __m256i high, __m256i (&numbers)[4]) {
        const __m256i two = _mm256_set1_epi8(48);
        numbers[0] = _mm256_or_si256(eight_rows::low_nibbles(near), _mm256_and_si256(_mm256_slli_epi16(high, 4), two));
        numbers[1] = _mm256_or_si256(eight_rows::low_nibbles(far), _mm256_and_si256(_mm256_slli_epi16(high, 2), two));
        numbers[2] = _mm256_or_si256(eight_rows::high_nibbles(near), _mm256_and_si256(high, two));
        numbers[3] = _mm256_or_si256(eight_rows::high_nibbles(far), _mm256_and_si256(_mm256_srli_epi16(high, 2), two));
    }

    static void unpack_scales(const block_q6_K * blocks, int64_t stride, rows & to, int vector) {
        __m256i bytes[4];
        eight_rows::transpose(blocks->scales, stride, bytes);
        for (int four = 0; four < 4; ++four) {
            const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes[four], 8), 8);
            const __m256i odd  = _mm256_srai_epi16(bytes[four], 8);
            __m256i (*scales)[rows::VECTORS] = &to.scales[4 * four];
            scales[0][vector] = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(even, 0xA0), 0xA0);
            scales[1][vector] = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(odd, 0xA0), 0xA0);
            scales[2][vector] = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(even, 0xF5), 0xF5);
            scales[3][vector] = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(odd, 0xF5), 0xF5);
            to.offsets[2 * four][vector]     = _mm256_blend_epi16(scales[0][vector], scales[1][vector], 0xAA);
            to.offsets[2 * four + 1][vector] = _mm256_blend_epi16(scales[2][vector], scales[3][vector], 0xAA);
        }
        alignas(16) ggml_fp16_t halves[rows::LANES];
        for (int row = 0; row < rows::LANES; ++row) {
            halves[row] = ((const block_q6_K *) ((const char *) blocks + stride * row))->d;
        }
        to.scale[vector] = _mm256_cvtph_ps(_mm_load_si128((const __m128i *) halves));
    }
};

template <typename TA> class unsigned_blocks {
public:
    // Sizes and strides of A and B count blocks.
    unsigned_blocks(int64_t k, const TA * A, int64_t lda, const block_q8_K * B, int64_t ldb, float * C, int64_t ldc)
        : A(A), B(B), C(C), k(k), lda(lda), ldb(ldb), ldc(ldc) {
    }

    void matmul(int64_t m, int64_t n, int ith, int nth) {
        const int64_t tiles = m / ROWS;
        const int64_t duty  = (tiles + nth - 1) / nth;
        const int64_t start = duty * ith;
        const int64_t end   = start + duty < tiles ? start + duty : tiles;
        if (n == 1) {
            for (int64_t i = start * ROWS; i < end * ROWS; i += LANES) {
                multiply_column(i);
            }
            return;
        }
        for (int64_t column = 0; column < n; column += MAX_COLUMNS) {
            const int64_t count = n - column < MAX_COLUMNS ? n - column : MAX_COLUMNS;
            for (int64_t block = 0; block < k; block += MAX_BLOCKS) {
                first = block;
                depth = k - block < MAX_BLOCKS ? k - block : MAX_BLOCKS;
                for (int64_t tile = start; tile < end; ++tile) {
                    multiply(tile * ROWS, column, count);
                }
            }
        }
    }

private:
    using type = unsigned_type<TA>;
    using rows_of_type = typename type::rows;
    static constexpr int64_t LANES = rows_of_type::LANES, VECTORS = rows_of_type::VECTORS, ROWS = UNSIGNED_ROWS;
    static constexpr int64_t WIDTH = 3;  // columns of a tile
    static constexpr int64_t MAX_BLOCKS  = 4;   // 20 KB of rows, about what a core's first cache holds
    static constexpr int64_t MAX_COLUMNS = 63;  // 72 KB, which stay in its second
    static constexpr int64_t COLUMN_BLOCKS = 16;  // of a row, that are read one after another
    static constexpr int64_t AHEAD_BYTES = 2048;

    void multiply(int64_t i, int64_t j, int64_t count) {
        for (int64_t l = 0; l < depth; ++l) {
            prefetch_rows(i + ROWS, l);
            for (int vector = 0; vector < VECTORS; ++vector) {
                type::unpack(A + lda * (i + vector * LANES) + first + l, lda * sizeof(TA), rows[l], vector);
            }
        }
        int64_t column = j;
        for (; column + WIDTH <= j + count; column += WIDTH) {
            tile<WIDTH>(i, column);
        }
        static_assert(WIDTH == 3, "what is left is two columns or one");
        if (column + 1 < j + count) {
            tile<2>(i, column);
        } else if (column < j + count) {
            tile<1>(i, column);
        }
    }

    // While the rows before are computed: processors do not see sixteen rows coming that are read side by side.
    void prefetch_rows(int64_t i, int64_t l) const {
        if (lda == depth) {
            prefetch(A + lda * i + l * ROWS, ROWS);
            return;
        }
        for (int64_t row = 0; row < ROWS; ++row) {
            prefetch(A + lda * (i + row) + first + l, 1);
        }
    }

    static void prefetch(const void * start, int64_t blocks) {
        for (const char * line = (const char *) start; line < (const char *) start + blocks * sizeof(TA); line += 64) {
            _mm_prefetch(line, _MM_HINT_T0);
        }
    }

    template <int N> NOINLINE void tile(int64_t i, int64_t j) {
        float * c = C + ldc * j + i;
        __m256 sums[VECTORS][N];
        for (int vector = 0; vector < VECTORS; ++vector) {
            for (int n = 0; n < N; ++n) {
                sums[vector][n] = first == 0 ? _mm256_setzero_ps() : _mm256_loadu_ps(c + ldc * n + vector * LANES);
            }
        }
        for (int64_t l = 0; l < depth; ++l) {
            const block_q8_K * columns[N];
            for (int n = 0; n < N; ++n) {
                columns[n] = B + ldb * (j + n) + first + l;
            }
            __m256i offsets[VECTORS][N], products[VECTORS][N];
            multiply_offsets<N>(rows[l], columns, offsets);
            multiply_numbers<N>(rows[l], columns, products);
            for (int n = 0; n < N; ++n) {
                const __m256 scale = _mm256_broadcast_ss(&columns[n]->d);
                for (int vector = 0; vector < VECTORS; ++vector) {
                    if constexpr (type::SCALES == 16) {
                        const __m256i offset = _mm256_slli_epi32(offsets[vector][n], 5);
                        products[vector][n] = _mm256_sub_epi32(products[vector][n], offset);
                    }
                    add(sums[vector][n], rows[l].scale[vector], scale, products[vector][n]);
                    if constexpr (type::SCALES == 8) {
                        subtract(sums[vector][n], rows[l].offset_scale[vector], scale, offsets[vector][n]);
                    }
                }
            }
        }
        for (int vector = 0; vector < VECTORS; ++vector) {
            for (int n = 0; n < N; ++n) {
                _mm256_storeu_ps(c + ldc * n + vector * LANES, sums[vector][n]);
            }
        }
    }

    template <int N>
    static void multiply_offsets(const rows_of_type & rows, const block_q8_K * (&columns)[N], __m256i (&sums)[VECTORS][N]) {
        zero(sums);
        for (int pair = 0; pair < QK_K / 32; ++pair) {
            for (int n = 0; n < N; ++n) {
                const __m256i both = broadcast(columns[n]->bsums + 2 * pair);
                for (int vector = 0; vector < VECTORS; ++vector) {
                    const __m256i products = _mm256_madd_epi16(rows.offsets[pair][vector], both);
                    sums[vector][n] = _mm256_add_epi32(sums[vector][n], products);
                }
            }
        }
    }

    template <int N>
    static void multiply_numbers(const rows_of_type & rows, const block_q8_K * (&columns)[N], __m256i (&sums)[VECTORS][N]) {
        constexpr int FOURS = QK_K / 4 / type::SCALES;
        zero(sums);
        for (int part = 0; part < type::SCALES; ++part) {
            for (int first = part * FOURS; first < (part + 1) * FOURS; first += type::ADDED) {
                __m256i products[VECTORS][N];
                multiply_fours<N>(rows, columns, first, products);
                for (int vector = 0; vector < VECTORS; ++vector) {
                    for (int n = 0; n < N; ++n) {
                        const __m256i scaled = _mm256_madd_epi16(products[vector][n], rows.scales[part][vector]);
                        sums[vector][n] = _mm256_add_epi32(sums[vector][n], scaled);
                        keep(sums[vector][n]);
                    }
                }
            }
        }
    }

    template <int N>
    static void multiply_fours(const rows_of_type & rows, const block_q8_K * (&columns)[N], int first, __m256i (&sums)[VECTORS][N]) {
#if defined(__GNUC__)
#pragma GCC unroll 8
#endif
        for (int four = 0; four < type::ADDED; ++four) {
            __m256i row[VECTORS];
            for (int vector = 0; vector < VECTORS; ++vector) {
                row[vector] = rows.fours[first + four][vector];
                keep(row[vector]);
            }
            for (int n = 0; n < N; ++n) {
                const __m256i numbers = broadcast(columns[n]->qs + 4 * (first + four));
                for (int vector = 0; vector < VECTORS; ++vector) {
                    const __m256i product = _mm256_maddubs_epi16(row[vector], numbers);
                    sums[vector][n] = four == 0 ? product : _mm256_add_epi16(sums[vector][n], product);
                    keep(sums[vector][n]);
                }
            }
        }
    }

    // Of one column nothing is worth being transposed: the same sums, row by row as they lie in memory.
    void multiply_column(int64_t i) {
        __m256i products[COLUMN_BLOCKS][LANES];
        __m128i offsets[COLUMN_BLOCKS][LANES];
        __m256 sums = _mm256_setzero_ps();
        for (int64_t start = 0; start < k; start += COLUMN_BLOCKS) {
            const int64_t count = k - start < COLUMN_BLOCKS ? k - start : COLUMN_BLOCKS;
            for (int64_t row = 0; row < LANES; ++row) {
                const TA * blocks = A + lda * (i + row) + start;
                for (int64_t l = 0; l < count; ++l) {
                    prefetch((const char *) (blocks + l) + AHEAD_BYTES, 1);
                    const unsigned_sums of_block = type::multiply(blocks[l], B[start + l]);
                    products[l][row] = of_block.products;
                    offsets[l][row]  = of_block.offsets;
                }
            }
            for (int64_t l = 0; l < count; ++l) {
                add_block(sums, A + lda * i + start + l, B[start + l].d, products[l], offsets[l]);
            }
        }
        _mm256_storeu_ps(C + i, sums);
    }

    void add_block(__m256 & sums, const TA * block, const float & column_scale, const __m256i * x, const __m128i * y) const {
        const __m256 scale = _mm256_broadcast_ss(&column_scale);
        const __m256i low = add4(x[0], x[1], x[2], x[3]), high = add4(x[4], x[5], x[6], x[7]);
        const __m256i products = _mm256_add_epi32(_mm256_permute2x128_si256(low, high, 0x20),
                                                  _mm256_permute2x128_si256(low, high, 0x31));
        alignas(16) ggml_fp16_t scales[LANES];
        for (int64_t row = 0; row < LANES; ++row) {
            scales[row] = block[lda * row].d;
        }
        add(sums, _mm256_cvtph_ps(_mm_load_si128((const __m128i *) scales)), scale, products);
        if constexpr (type::SCALES == 8) {
            __m256i z[4];
            for (int row = 0; row < 4; ++row) {
                z[row] = _mm256_inserti128_si256(_mm256_castsi128_si256(y[row]), y[row + 4], 1);
            }
            for (int64_t row = 0; row < LANES; ++row) {
                scales[row] = block[lda * row].dmin;
            }
            const __m256 offset_scale = _mm256_cvtph_ps(_mm_load_si128((const __m128i *) scales));
            subtract(sums, offset_scale, scale, add4(z[0], z[1], z[2], z[3]));
        }
    }

    static void add(__m256 & sums, __m256 row_scale, __m256 column_scale, __m256i products) {
        sums = _mm256_fmadd_ps(_mm256_mul_ps(row_scale, column_scale), _mm256_cvtepi32_ps(products), sums);
    }

    static void subtract(__m256 & sums, __m256 row_scale, __m256 column_scale, __m256i products) {
        sums = _mm256_fnmadd_ps(_mm256_mul_ps(row_scale, column_scale), _mm256_cvtepi32_ps(products), sums);
    }

    static __m256i broadcast(const void * start) {
        int32_t bytes;
        memcpy(&bytes, start, sizeof(bytes));
        return _mm256_set1_epi32(bytes);
    }

    template <int N> static void zero(__m256i (&sums)[VECTORS][N]) {
        for (int vector = 0; vector < VECTORS; ++vector) {
            for (int n = 0; n < N; ++n) {
                sums[vector][n] = _mm256_setzero_si256();
            }
        }
    }

    const TA * const A;
    const block_q8_K * const B;
    float * const C;
    const int64_t k, lda, ldb, ldc;
    int64_t first = 0, depth = 0;  // the blocks that are multiplied now
    rows_of_type rows[MAX_BLOCKS];
};

#endif
