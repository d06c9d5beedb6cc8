// The last layers of a model that shares keys and values write none: what they compute of a prompt's tokens is read by nobody,
// but for the tokens whose logits are asked for. So only those tokens' rows are computed there ("You Only Cache Once",
// arXiv:2405.05254), and none where no logits are asked for.
//
// Put into llama.cpp's src/models by setup/llama_source.py.

#pragma once

#include "llama-cparams.h"
#include "llama-graph.h"

#include <algorithm>
#include <vector>

// The rows of a batch that are computed behind the last layer with keys and values of its own. Attention wants as many rows of
// each stream (of each sequence, where sequences have keys and values of their own): a stream with fewer outputs than another
// has rows that nobody reads. And of a single output two rows are computed, as many kernels round one row otherwise than several:
// so a prompt has the same logits by itself and in a batch with others.
class llm_graph_input_output_rows : public llm_graph_input_i {
public:
    static constexpr int64_t MAX_ROWS = 64;

    llm_graph_input_output_rows(const llama_cparams & cparams, const llama_ubatch & ubatch) :
        n_stream(count_streams(cparams, ubatch)),
        n_tokens(ubatch.n_tokens),
        n_stream_rows(count_stream_rows(ubatch, n_stream)) {
    }

    bool has_outputs() const {
        return n_stream_rows > 0;
    }

    // whether picking rows saves more than it takes: their masks are made anew, and memory is reserved for graphs without them
    bool pays() const {
        return has_outputs() && 2 * n_rows() <= n_tokens && n_rows() <= MAX_ROWS;
    }

    int64_t n_rows() const {
        return n_stream * n_stream_rows;
    }

    void set_input(const llama_ubatch * ubatch) override {
        const int64_t n_stream_tokens = n_tokens / n_stream;
        std::vector<int32_t> row_data, output_data;
        for (int64_t stream = 0; stream < n_stream; ++stream) {
            const int64_t first = stream * n_stream_tokens;
            for (int64_t token = first; token < first + n_stream_tokens; ++token) {
                if (ubatch->output[token]) {
                    output_data.push_back(row_data.size());
                    row_data.push_back(token);
                }
            }
            row_data.resize((stream + 1) * n_stream_rows, first);
        }
        GGML_ASSERT((int64_t) output_data.size() == outputs->ne[0]);
        ggml_backend_tensor_set(rows, row_data.data(), 0, row_data.size() * sizeof(int32_t));
        ggml_backend_tensor_set(outputs, output_data.data(), 0, output_data.size() * sizeof(int32_t));
    }

    // the caller has compared the numbers of tokens, streams and outputs
    bool can_reuse(const llm_graph_params & params) override {
        return count_streams(params.cparams, params.ubatch) == n_stream &&
            count_stream_rows(params.ubatch, n_stream) == n_stream_rows;
    }

    // the picked rows of an attention mask [n_kv, n_tokens/n_stream, 1, n_stream]
    ggml_tensor * pick_mask(ggml_context * ctx, ggml_tensor * mask) const {
        ggml_tensor * picked = ggml_get_rows(ctx, ggml_reshape_2d(ctx, mask, mask->ne[0], n_tokens), rows);
        if (picked->type != mask->type) {
            picked = ggml_cast(ctx, picked, mask->type);
        }
        return ggml_reshape_4d(ctx, picked, mask->ne[0], n_stream_rows, 1, n_stream);
    }

    // the picked positions of [n_tokens]
    ggml_tensor * pick_positions(ggml_context * ctx, ggml_tensor * positions) const {
        return ggml_reshape_1d(ctx, ggml_get_rows(ctx, ggml_reshape_2d(ctx, positions, 1, n_tokens), rows), n_rows());
    }

    const int64_t n_stream;
    const int64_t n_tokens;
    const int64_t n_stream_rows;

    ggml_tensor * rows    = nullptr; // I32 [n_stream*n_stream_rows]: which token a row is
    ggml_tensor * outputs = nullptr; // I32 [n_outputs]: which of these rows are output

private:
    static int64_t count_streams(const llama_cparams & cparams, const llama_ubatch & ubatch) {
        return cparams.kv_unified ? 1 : ubatch.n_seqs_unq;
    }

    // by the outputs of the stream that has most; all its tokens where outputs are not known
    static int64_t count_stream_rows(const llama_ubatch & ubatch, int64_t n_stream) {
        const int64_t n_stream_tokens = ubatch.n_tokens / n_stream;
        if (!ubatch.output) {
            return n_stream_tokens;
        }
        int64_t most = 0;
        for (int64_t stream = 0; stream < n_stream; ++stream) {
            int64_t count = 0;
            for (int64_t i = 0; i < n_stream_tokens; ++i) {
                count += ubatch.output[stream * n_stream_tokens + i] != 0;
            }
            most = std::max(most, count);
        }
        const bool is_single = n_stream == 1 && most == 1 && n_stream_tokens > 1;
        return is_single ? 2 : most;
    }
};
