// Attention of few tokens over half floats on a processor with AVX2 and no AVX-512, sooner than ggml's, whose sums are half floats
// too, so that each is widened and rounded at every cell, and which widens keys and values once for each head. Here up to four
// heads that share keys and values read them together, sums are floats, and the softmax goes on by sixteen cells. What is computed
// hangs neither on how many heads are read together nor on cells that are masked. (One token behind 512 cells and more is left to
// ggml where there are more threads than groups of heads: it shares out the cells among them.)
//
// Put beside llama.cpp's ggml/src/ggml-cpu/ops.cpp by setup/llama_source.py, and included there.

#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__AVX512F__)
#define HAS_WIDENED_ATTENTION

namespace {

class widened_attention {
public:
    explicit widened_attention(ggml_tensor * dst) :
        dst(dst), q(dst->src[0]), k(dst->src[1]), v(dst->src[2]), mask(dst->src[3]), sinks(dst->src[4]),
        heads_per_kv(q->ne[2] / k->ne[2]), length(k->ne[0]), value_length(v->ne[0]) {
        memcpy(&scale, (float *) dst->op_params + 0, sizeof(float));
        memcpy(&max_bias, (float *) dst->op_params + 1, sizeof(float));
        memcpy(&softcap, (float *) dst->op_params + 2, sizeof(float));
    }

    // False where this shape is not for it; then nothing was done.
    bool compute(const ggml_compute_params * params) {
        if (params->use_ref || !is_suitable()) {
            return false;
        }
        heads = MAX_HEADS;
        while (heads > 1 && items() < params->nth) {
            heads /= 2;
        }
        if (items() < params->nth && q->ne[1] == 1 && q->ne[3] == 1 && k->ne[1] >= MIN_SHARED_CELLS) {
            return false;  // ggml shares out the cells
        }
        if (params->ith == 0) {
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);
        for (int64_t item = params->ith; item < items(); item = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            attend(item);
        }
        return true;
    }

private:
    static constexpr int MAX_HEADS = 4;    // that are read together
    static constexpr int MAX_CELLS = 16;   // between two looks at the largest score
    static constexpr int MAX_LENGTH = 512;
    static constexpr int MIN_SHARED_CELLS = 512;
    static constexpr ggml_fp16_t MINUS_INFINITY = 0xFC00;

    bool is_suitable() const {
        return q->nb[0] == sizeof(float) && k->nb[0] == sizeof(ggml_fp16_t) && v->nb[0] == sizeof(ggml_fp16_t) &&
            q->type == GGML_TYPE_F32 && k->type == GGML_TYPE_F16 && v->type == GGML_TYPE_F16 &&
            length % 32 == 0 && length <= MAX_LENGTH && value_length % 16 == 0 && value_length <= MAX_LENGTH &&
            q->ne[1] < (int64_t) ggml_fa_tile_config::Q && v->ne[2] == k->ne[2] && v->ne[3] == k->ne[3] && (!mask || mask->ne[2] == 1);
    }

    int64_t groups() const {  // of heads that share keys and values
        return (heads_per_kv + heads - 1) / heads;
    }

    int64_t items() const {
        return q->ne[1] * k->ne[2] * groups() * q->ne[3];
    }

    void attend(int64_t item) {
        const int64_t token  = item % q->ne[1];
        const int64_t group  = item / q->ne[1] % groups();
        const int64_t kv     = item / q->ne[1] / groups() % k->ne[2];
        const int64_t stream = item / q->ne[1] / groups() / k->ne[2];
        first = kv * heads_per_kv + group * heads;
        count = std::min<int64_t>(heads, heads_per_kv - group * heads);
        const int64_t kv_stream = stream / (q->ne[3] / k->ne[3]);
        const char * keys   = (const char *) k->data + kv * k->nb[2] + kv_stream * k->nb[3];
        const char * values = (const char *) v->data + kv * v->nb[2] + kv_stream * v->nb[3];
        masked = mask ? (const ggml_fp16_t *) ((const char *) mask->data + token * mask->nb[1] + stream % mask->ne[3] * mask->nb[3])
                      : nullptr;
        for (int head = 0; head < count; ++head) {
            start_head(head, token, stream);
        }

        const int64_t n_cells = k->ne[1];
        int filled = 0;
        for (int64_t cell = 0; cell < n_cells; ++cell) {
            if (!is_masked(cell)) {
                cells[filled++] = cell;
            }
            if (filled == MAX_CELLS || (filled > 0 && cell + 1 == n_cells)) {
                read_cells(filled, keys, values);
                filled = 0;
            }
        }
        for (int head = 0; head < count; ++head) {
            end_head(head, token, stream);
        }
    }

    bool is_masked(int64_t cell) const {
        return masked && masked[cell] == MINUS_INFINITY;
    }

    void start_head(int head, int64_t token, int64_t stream) {
        const float * query = (const float *) ((const char *) q->data + token * q->nb[1] + (first + head) * q->nb[2] + stream * q->nb[3]);
        for (int64_t i = 0; i < length; i += 8) {  // rounded to half floats, as keys are
            _mm256_store_ps(queries[head] + i, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(query + i), _MM_FROUND_TO_NEAREST_INT)));
        }
        memset(sums[head], 0, value_length * sizeof(float));
        largest[head] = -INFINITY;
        total[head] = 0.0f;
        slopes[head] = slope_of(first + head);
    }

    float slope_of(int64_t head) const {
        if (max_bias <= 0.0f) {
            return 1.0f;
        }
        const int64_t power = (int64_t) 1 << (int) floor(log2((double) q->ne[2]));
        return head < power ? powf(powf(2.0f, -max_bias / power), head + 1)
                            : powf(powf(2.0f, -(max_bias / 2.0f) / power), 2 * (head - power) + 1);
    }

    void read_cells(int filled, const char * keys, const char * values) {
        for (int at = 0; at < filled; ++at) {
            const ggml_fp16_t * key = (const ggml_fp16_t *) (keys + cells[at] * k->nb[1]);
            int head = 0;
            for (; head + 1 < count; head += 2) {
                score<2>(key, head, at);
            }
            if (head < count) {
                score<1>(key, head, at);
            }
        }
        for (int head = 0; head < count; ++head) {
            weigh(head, filled);
        }
        switch (count) {
            case 4: add_values<4>(filled, values); break;
            case 3: add_values<3>(filled, values); break;
            case 2: add_values<2>(filled, values); break;
            case 1: add_values<1>(filled, values); break;
        }
    }

    template <int N> void score(const ggml_fp16_t * key, int head, int at) {
        __m256 parts[N][4];
        for (int n = 0; n < N; ++n) {
            for (int part = 0; part < 4; ++part) {
                parts[n][part] = _mm256_setzero_ps();
            }
        }
        for (int64_t i = 0; i < length; i += 32) {
            for (int part = 0; part < 4; ++part) {
                const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (key + i + 8 * part)));
                for (int n = 0; n < N; ++n) {
                    parts[n][part] = _mm256_fmadd_ps(wide, _mm256_load_ps(queries[head + n] + i + 8 * part), parts[n][part]);
                }
            }
        }
        for (int n = 0; n < N; ++n) {
            const __m256 all = _mm256_add_ps(_mm256_add_ps(parts[n][0], parts[n][2]), _mm256_add_ps(parts[n][1], parts[n][3]));
            const __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
            const __m128 two = _mm_hadd_ps(four, four);
            scores[head + n][at] = _mm_cvtss_f32(_mm_hadd_ps(two, two));
        }
    }

    // Scores become weights, and what was added up before is scaled where one is larger than all before.
    void weigh(int head, int filled) {
        float * weights = scores[head];
        float most = largest[head];
        for (int at = 0; at < filled; ++at) {
            float score = weights[at] * (softcap != 0.0f ? scale / softcap : scale);
            if (softcap != 0.0f) {
                score = softcap * tanhf(score);
            }
            if (masked) {
                score += slopes[head] * GGML_CPU_FP16_TO_FP32(masked[cells[at]]);
            }
            weights[at] = score;
            most = std::max(most, score);
        }
        for (int at = filled; at < MAX_CELLS; ++at) {
            weights[at] = most;
        }
        for (int at = 0; at < MAX_CELLS; at += 8) {
            _mm256_store_ps(weights + at, ggml_v_expf(_mm256_sub_ps(_mm256_load_ps(weights + at), _mm256_set1_ps(most))));
        }
        if (most > largest[head]) {
            const float factor = expf(largest[head] - most);
            total[head] *= factor;
            ggml_vec_scale_f32(value_length, sums[head], factor);
            largest[head] = most;
        }
        for (int at = 0; at < filled; ++at) {
            total[head] += weights[at];
        }
    }

    template <int N> void add_values(int filled, const char * values) {
        for (int64_t i = 0; i < value_length; i += 16) {
            __m256 low[N], high[N];
            for (int n = 0; n < N; ++n) {
                low[n]  = _mm256_load_ps(sums[n] + i);
                high[n] = _mm256_load_ps(sums[n] + i + 8);
            }
            for (int at = 0; at < filled; ++at) {
                const ggml_fp16_t * value = (const ggml_fp16_t *) (values + cells[at] * v->nb[1]) + i;
                const __m256 wide_low  = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) value));
                const __m256 wide_high = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *) (value + 8)));
                for (int n = 0; n < N; ++n) {
                    const __m256 weight = _mm256_broadcast_ss(&scores[n][at]);
                    low[n]  = _mm256_fmadd_ps(wide_low, weight, low[n]);
                    high[n] = _mm256_fmadd_ps(wide_high, weight, high[n]);
                }
            }
            for (int n = 0; n < N; ++n) {
                _mm256_store_ps(sums[n] + i, low[n]);
                _mm256_store_ps(sums[n] + i + 8, high[n]);
            }
        }
    }

    void end_head(int head, int64_t token, int64_t stream) {
        if (sinks) {
            const float sink = ((const float *) sinks->data)[first + head];
            if (sink > largest[head]) {
                const float factor = expf(largest[head] - sink);
                total[head] = total[head] * factor + 1.0f;
                ggml_vec_scale_f32(value_length, sums[head], factor);
            } else {
                total[head] += expf(sink - largest[head]);
            }
        }
        ggml_vec_scale_f32(value_length, sums[head], total[head] == 0.0f ? 0.0f : 1.0f / total[head]);
        const int64_t row = stream * dst->ne[2] * dst->ne[1] + token * dst->ne[1] + first + head;
        memcpy((char *) dst->data + row * dst->nb[1], sums[head], value_length * sizeof(float));
    }

    ggml_tensor * dst;
    const ggml_tensor * q, * k, * v, * mask, * sinks;
    const int64_t heads_per_kv, length, value_length;
    float scale, max_bias, softcap;
    int64_t heads = MAX_HEADS;  // of an item, at most
    int64_t first = 0;          // head of the item, and how many it has
    int count = 0;
    int64_t cells[MAX_CELLS];
    const ggml_fp16_t * masked = nullptr;  // what is added to the scores of the item's token, by cell
    float slopes[MAX_HEADS], largest[MAX_HEADS], total[MAX_HEADS];
    alignas(32) float scores[MAX_HEADS][MAX_CELLS];
    alignas(32) float queries[MAX_HEADS][MAX_LENGTH];
    alignas(32) float sums[MAX_HEADS][MAX_LENGTH];
};

}  // namespace

#endif
