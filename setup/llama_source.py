"""What is changed in llama.cpp's source before it is compiled: `python setup/llama_source.py FOLDER`, an unpacked sdist of
llama-cpp-python. Standard library only.

Gemma 4's last layers (18 of E4B's 42) read the keys and values of layers before them, so of a prompt they need only the tokens
whose logits are asked for. llama.cpp computes them for all ("TODO: strip unused token right after the last KV layer"); with
`llama_cpp/output_rows.h` it does not, and a prompt takes little more than half its time.

Where a text's vector is its first token's row, an encoder's last feed-forward net needs no other row: 2 to 4 % of the time of a
BERT of 12 layers, bit for bit the same, as each row is computed by itself.

llama.cpp builds an encoder's graph anew for each text, as its inputs do not say which texts they fit: here it is used again
where as many tokens of as many texts follow.

A processor with AVX2 and no AVX-512 spends more time on widening half floats than on multiplying them, and more on rearranging
bytes than on multiplying those:
- with `llama_cpp/widened_rows.h` it widens a row once and not once for every three tokens, bit for bit the same;
- with `llama_cpp/widened_attention.h` it widens the keys and values that up to 63 tokens attend to once for two and four heads,
  and sums are floats;
- with `llama_cpp/widened_blocks.h` (Q8_0, Q5_0, Q4_0, IQ4_NL) and `unsigned_blocks.h` (Q4_K, Q5_K, Q6_K) it multiplies blocks
  of small integers, where there is no AVX-VNNI either, in a third to little more than half the time, rounded otherwise, but
  one column as among others; Q4_0 and Q4_K stay as they are in the file, and need no copy that is rearranged;
- with `llama_cpp/quantised_columns.h` (AVX-512 too) the other factor of K-quants is made in a fifth of the time, bit for bit
  the same;
- with `llama_cpp/activations.h` (AVX-512 too) GELU is computed, sooner than it is looked up in a table larger than the caches,
  and not rounded to half floats, and tanh eight at a time.

A source that is not the one these changes were made for is left as it is: the service then computes more, not something else.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

OURS = Path(__file__).parent / "llama_cpp"
SOURCE = Path("vendor") / "llama.cpp" / "src"
MODELS = SOURCE / "models"
CPU = Path("vendor") / "llama.cpp" / "ggml" / "src" / "ggml-cpu"
HEADERS = {
    OURS / "output_rows.h": MODELS,
    OURS / "widened_rows.h": CPU / "llamafile",
    OURS / "widened_blocks.h": CPU / "llamafile",
    OURS / "unsigned_blocks.h": CPU / "llamafile",
    OURS / "lanes.h": CPU / "llamafile",
    OURS / "quantised_columns.h": CPU / "arch" / "x86",
    OURS / "activations.h": CPU,
    OURS / "widened_attention.h": CPU,
}
"""By file: the folder that it is put into."""


@dataclass(frozen=True)
class Change:
    """A place in a source file that is there once, and what stands there instead."""

    before: str
    after: str


GEMMA_4 = (
    Change(
        '#include "models.h"\n',
        '#include "models.h"\n#include "output_rows.h"\n',
    ),
    Change(
        "    ggml_tensor * inp_out_ids = build_inp_out_ids();\n",
        """\
    llm_graph_input_output_rows * picked = nullptr;
    bool has_outputs = true;
    const auto & layer_inp = cparams.embeddings_layer_inp;
    const bool reads_rows = cparams.embeddings_nextn || cparams.embeddings_nextn_masked ||
        std::find(layer_inp.begin(), layer_inp.end(), true) != layer_inp.end();
    if (!reads_rows && hparams.n_layer_kv_from_start > 0 && hparams.n_layer_kv_from_start <= n_layer) {
        auto input = std::make_unique<llm_graph_input_output_rows>(cparams, ubatch);
        has_outputs = input->has_outputs();
        if (input->pays()) {
            input->rows = ggml_new_tensor_1d(ctx0, GGML_TYPE_I32, input->n_rows());
            ggml_set_input(input->rows);
            input->outputs = ggml_new_tensor_1d(ctx0, GGML_TYPE_I32, n_outputs);
            ggml_set_input(input->outputs);
            picked = (llm_graph_input_output_rows *) res->add_input(std::move(input));
        }
    }
    ggml_tensor * inp_out_ids = picked ? picked->outputs : build_inp_out_ids();
    int64_t n_rows = n_tokens;
""",
    ),
    Change("ggml_view_2d(ctx0, qkv_fused, q_dim, n_tokens,", "ggml_view_2d(ctx0, qkv_fused, q_dim, n_rows,"),
    Change(
        "ggml_reshape_3d(ctx0, Qcur, n_embd_head, n_head, n_tokens)", "ggml_reshape_3d(ctx0, Qcur, n_embd_head, n_head, n_rows)"
    ),
    Change(
        "        // TODO @ngxson : strip unused token right after the last KV layer",
        """\
        if (il == hparams.n_layer_kv_from_start - 1) {
            if (!has_outputs) {
                ggml_build_forward_expand(gf, cur); // some masks are read here alone, and each must have its memory
                break;
            }
            if (picked) {
                n_rows  = picked->n_rows();
                cur     = ggml_get_rows(ctx0,  cur, picked->rows);
                inpL    = ggml_get_rows(ctx0, inpL, picked->rows);
                inp_pos = picked->pick_positions(ctx0, inp_pos);
                inp_attn->self_kq_mask_cnv     = picked->pick_mask(ctx0, inp_attn->self_kq_mask_cnv);
                inp_attn->self_kq_mask_swa_cnv = picked->pick_mask(ctx0, inp_attn->self_kq_mask_swa_cnv);
            }
        }

        // TODO @ngxson : strip unused token right after the last KV layer""",
    ),
    Change(
        "            // TODO @ngxson : improve this\n",
        """\
            if (n_rows < n_tokens) {
                inp_this_layer = ggml_get_rows(ctx0, inp_this_layer, picked->rows);
            }

            // TODO @ngxson : improve this
""",
    ),
)

ENCODER = (
    Change(
        "    ggml_tensor * inp_out_ids = build_inp_out_ids();\n",
        """\
    const bool pools_first = cparams.embeddings && pooling_type == LLAMA_POOLING_TYPE_CLS &&
        n_outputs == n_tokens && ubatch.n_seqs_unq < n_tokens;
    ggml_tensor * inp_out_ids = pools_first ? build_inp_cls() : build_inp_out_ids();
""",
    ),
)

POOLING = (
    Change(
        """\
        case LLAMA_POOLING_TYPE_LAST:
            {
""",
        """\
        case LLAMA_POOLING_TYPE_LAST:
            {
                if (inp->ne[1] < n_tokens) {
                    cur = inp; // an encoder's last net computed the first tokens alone
                    break;
                }
""",
    ),
    Change(
        "bool llm_graph_result::can_reuse(const llm_graph_params & params) {\n",
        """\
// What an encoder reads has a shape that the numbers of tokens and of sequences give, which allow_reuse has compared.
static bool is_encoder_input(const llm_graph_input_i * input) {
    return dynamic_cast<const llm_graph_input_attn_no_cache *>(input) || dynamic_cast<const llm_graph_input_mean *>(input) ||
        dynamic_cast<const llm_graph_input_cls *>(input);
}

bool llm_graph_result::can_reuse(const llm_graph_params & params) {
""",
    ),
    Change(
        "        const bool cur = input->can_reuse(params);\n",
        "        const bool cur = is_encoder_input(input.get()) || input->can_reuse(params);\n",
    ),
)

HALF_FLOATS = (
    Change(
        "} // namespace\n",
        """\
} // namespace

#include "widened_rows.h"
""",
    ),
    Change(
        "            tinyBLAS<8, __m256, __m256, ggml_fp16_t, ggml_fp16_t, float> tb{ params, k,\n",
        """\
#ifdef HAS_WIDENED_ROWS
            const widened_rows rows{ params, k, (const ggml_fp16_t *)A, lda, (const ggml_fp16_t *)B, ldb, (float *)C, ldc};
            if (rows.matmul(m, n)) {
                return true;
            }
#endif
            tinyBLAS<8, __m256, __m256, ggml_fp16_t, ggml_fp16_t, float> tb{ params, k,
""",
    ),
)

BLOCKS = (
    Change(
        """\
template <typename TA, typename TB, typename TC>
class tinyBLAS_Q0_AVX {
  public:
""",
        """\
#include "unsigned_blocks.h"
#include "widened_blocks.h"

template <typename TA, typename TB, typename TC>
class tinyBLAS_Q0_AVX {
#ifdef HAS_WIDENED_BLOCKS
    friend class widened_blocks<TA>;
#endif
  public:
""",
    ),
    Change(
        """\
        iq4nlt = _mm_loadu_si128((const __m128i *)kvalues_iq4nl);
    }

    void matmul(int64_t m, int64_t n) {
""",
        """\
        iq4nlt = _mm_loadu_si128((const __m128i *)kvalues_iq4nl);
    }

    void matmul(int64_t m, int64_t n) {
#ifdef HAS_WIDENED_BLOCKS
        if (widened_blocks<TA>::matmul(*this, m, n)) {
            return;
        }
#endif
""",
    ),
    Change(
        """\
    if (n < 2)
        return false;
#endif

    if (Ctype != GGML_TYPE_F32)
""",
        """\
#ifdef HAS_UNSIGNED_BLOCKS
    if (n < 2 && !widens_one_column(m, Atype, Btype) && !multiplies_unsigned_blocks(m, Atype, Btype))
#else
    if (n < 2)
#endif
        return false;
#endif

    if (Ctype != GGML_TYPE_F32)
""",
    ),
    Change(
        """\
    case GGML_TYPE_Q8_0: {
        if (Btype != GGML_TYPE_Q8_0)
""",
        """\
#ifdef HAS_UNSIGNED_BLOCKS
    case GGML_TYPE_Q4_K:
    case GGML_TYPE_Q5_K:
    case GGML_TYPE_Q6_K: {
        if (!multiplies_unsigned_blocks(m, Atype, Btype))
            return false;
        const auto multiply = [&](auto A) {
            unsigned_blocks{k, A, lda, (const block_q8_K *)B, ldb, (float *)C, ldc}.matmul(m, n, params->ith, params->nth);
            return true;
        };
        return Atype == GGML_TYPE_Q4_K ? multiply((const block_q4_K *)A)
             : Atype == GGML_TYPE_Q5_K ? multiply((const block_q5_K *)A)
                                       : multiply((const block_q6_K *)A);
    }
#endif

    case GGML_TYPE_Q8_0: {
        if (Btype != GGML_TYPE_Q8_0)
""",
    ),
)

OURS_COMPUTES = """\
defined(GGML_USE_LLAMAFILE) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && !defined(__AVX512F__) && \\
    !defined(__AVXVNNI__)"""
"""Where the headers' kernels multiply: what they ask for themselves."""

REPACK = (
    Change(
        """\
    if (cur->type == GGML_TYPE_Q4_0) {
        if (ggml_cpu_has_avx2() || (ggml_cpu_has_sve() && ggml_cpu_has_matmul_int8() && ggml_cpu_get_sve_cnt() == QK8_0)) {
""",
        f"""\
#if {OURS_COMPUTES}
    // llamafile/unsigned_blocks.h and widened_blocks.h compute sooner with the weights as they are; not those of experts
    if ((cur->type == GGML_TYPE_Q4_0 || cur->type == GGML_TYPE_Q4_K) && cur->ne[1] % 16 == 0 && cur->ne[2] == 1) {{
        return nullptr;
    }}
#endif

    if (cur->type == GGML_TYPE_Q4_0) {{
        if (ggml_cpu_has_avx2() || (ggml_cpu_has_sve() && ggml_cpu_has_matmul_int8() && ggml_cpu_get_sve_cnt() == QK8_0)) {{
""",
    ),
)

TILES = (
    Change(
        """\
    if (!ggml_tiled_min_batch(dst->src[1]->ne[1])) {
        return false;
    }
    return ggml_tiled_matmul_type_dispatch(params, dst);
""",
        f"""\
#if {OURS_COMPUTES}
    // llamafile/unsigned_blocks.h computes sooner
    const ggml_tensor * weights = dst->src[0];
    if ((weights->type == GGML_TYPE_Q4_K || weights->type == GGML_TYPE_Q5_K || weights->type == GGML_TYPE_Q6_K) &&
            weights->ne[1] % 16 == 0) {{
        return false;
    }}
#endif
    if (!ggml_tiled_min_batch(dst->src[1]->ne[1])) {{
        return false;
    }}
    return ggml_tiled_matmul_type_dispatch(params, dst);
""",
    ),
)

COLUMNS = (
    Change(
        """\
void quantize_row_q8_K(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k) {
    quantize_row_q8_K_ref(x, y, k);
}
""",
        """\
#if defined(__AVX2__)
#include "quantised_columns.h"
#else
void quantize_row_q8_K(const float * GGML_RESTRICT x, void * GGML_RESTRICT y, int64_t k) {
    quantize_row_q8_K_ref(x, y, k);
}
#endif
""",
    ),
)

ATTENTION = (
    Change(
        """\
static void ggml_compute_forward_flash_attn_ext_f16(
        const ggml_compute_params * params,
        ggml_tensor * dst) {

""",
        """\
#include "widened_attention.h"

static void ggml_compute_forward_flash_attn_ext_f16(
        const ggml_compute_params * params,
        ggml_tensor * dst) {

#ifdef HAS_WIDENED_ATTENTION
    if (widened_attention(dst).compute(params)) {
        return;
    }
#endif

""",
    ),
)

ACTIVATIONS = (
    Change(
        """\
#ifdef GGML_GELU_FP16
inline static void ggml_vec_gelu_f32(const int n, float * y, const float * x) {
    uint16_t t;
    for (int i = 0; i < n; ++i) {
""",
        """\
#ifdef GGML_GELU_FP16
inline static void ggml_vec_gelu_f32(const int n, float * y, const float * x) {
    uint16_t t;
    int i = 0;
#ifdef HAS_ACTIVATIONS
    for (; i + 7 < n; i += 8) {
        _mm256_storeu_ps(y + i, ggml_v_gelu(_mm256_loadu_ps(x + i)));
    }
#endif
    for (; i < n; ++i) {
""",
    ),
    Change(
        """\
inline static void ggml_vec_geglu_f32(const int n, float * y, const float * x, const float * g) {
    uint16_t t;
    for (int i = 0; i < n; ++i) {
""",
        """\
inline static void ggml_vec_geglu_f32(const int n, float * y, const float * x, const float * g) {
    uint16_t t;
    int i = 0;
#ifdef HAS_ACTIVATIONS
    for (; i + 7 < n; i += 8) {
        _mm256_storeu_ps(y + i, _mm256_mul_ps(ggml_v_gelu(_mm256_loadu_ps(x + i)), _mm256_loadu_ps(g + i)));
    }
#endif
    for (; i < n; ++i) {
""",
    ),
    Change(
        "inline static void ggml_vec_tanh_f32 (const int n, float * y, const float * x) "
        "{ for (int i = 0; i < n; ++i) y[i] = tanhf(x[i]);  }\n",
        """\
#include "activations.h"

inline static void ggml_vec_tanh_f32 (const int n, float * y, const float * x) {
    int i = 0;
#ifdef HAS_ACTIVATIONS
    for (; i + 7 < n; i += 8) {
        _mm256_storeu_ps(y + i, ggml_v_tanh(_mm256_loadu_ps(x + i)));
    }
#endif
    for (; i < n; ++i) y[i] = tanhf(x[i]);
}
""",
    ),
)

TANH = (
    Change(
        """\
template <float (*op)(float), typename src0_t, typename dst_t>
static void apply_unary_op(const ggml_compute_params * params, ggml_tensor * dst) {
""",
        """\
template <>
inline void vec_unary_op<op_tanh, float, float>(int64_t n, float * y, const float * x) {
    ggml_vec_tanh_f32(n, y, x);
}

template <float (*op)(float), typename src0_t, typename dst_t>
static void apply_unary_op(const ggml_compute_params * params, ggml_tensor * dst) {
""",
    ),
    Change('#include "unary-ops.h"\n', '#include "unary-ops.h"\n#include "vec.h"\n'),
)

CHANGES = {
    MODELS / "gemma4.cpp": GEMMA_4,
    MODELS / "bert.cpp": ENCODER,
    SOURCE / "llama-graph.cpp": POOLING,
    CPU / "llamafile" / "sgemm.cpp": (*HALF_FLOATS, *BLOCKS),
    CPU / "arch" / "x86" / "quants.c": COLUMNS,
    CPU / "ops.cpp": ATTENTION,
    CPU / "repack.cpp": REPACK,
    CPU / "tiled" / "tiled.cpp": TILES,
    CPU / "unary-ops.cpp": TANH,
    CPU / "vec.h": ACTIVATIONS,
}


def change(folder: Path) -> bool:
    """Change the source in an unpacked sdist; False, and nothing is changed, where it is another source."""
    texts = dict[Path, str]()
    for name, changes in CHANGES.items():
        file = folder / name
        text = file.read_text("utf-8") if file.exists() else ""
        if any(text.count(each.before) != 1 for each in changes):
            return False
        for each in changes:
            text = text.replace(each.before, each.after)
        texts[file] = text
    for file, text in texts.items():
        file.write_text(text, "utf-8")
    for header, target in HEADERS.items():
        shutil.copy(header, folder / target)
    return True


def digest() -> str:
    """What tells builds with these changes from those with others."""
    changes = [each.before + each.after for name in sorted(CHANGES) for each in CHANGES[name]]
    return hashlib.sha256("\n".join([*(header.read_text("utf-8") for header in HEADERS), *changes]).encode()).hexdigest()[:12]


if __name__ == "__main__":
    print("changed" if change(Path(sys.argv[1])) else "left as it is: another source")
