"""How near an embedding model puts texts that have nothing to do with each other: where a search begins to count hits."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from batch.workers.embedding.model import PooledModel

DEVIATIONS = 2.0
"""Standard deviations above the mean of all pairs."""
MAX_USUAL = 0.85
"""Whatever a model says of unrelated texts: near ones must be found."""
AT_ONCE = 4
"""Sentences in one decode, which fit into the smallest batch in any tokeniser."""
SENTENCES = {
    "Latin": (
        "A dog runs along the beach with a ball.",
        "The budget for next year was approved on Tuesday.",
        "How do I reset the password of my router?",
        "Two cups of flour, one egg and a pinch of salt.",
        "The violin concerto ends in a slow fugue.",
        "Snow is expected in the mountains tonight.",
        "A red bus waits at the traffic lights.",
        "The patient has had a cough for three weeks.",
        "Function pointers are passed to the sorting routine.",
        "The empire lost its last colony in 1898.",
        "She signed the lease for the new flat.",
        "Goal in the ninetieth minute: two to one.",
        "The volcano has been quiet for a century.",
        "Invoice number 4711 is still unpaid.",
        "A white cup stands on a wooden table.",
        "Bees find their way home by the sun.",
    ),
    "Han": (
        "一只狗叼着球在沙滩上奔跑。",
        "明年的预算星期二通过了。",
        "怎样重置路由器的密码？",
        "两杯面粉，一个鸡蛋和一小撮盐。",
        "小提琴协奏曲以缓慢的赋格结束。",
        "今晚山区预计有雪。",
        "一辆红色公交车停在红绿灯前。",
        "病人已经咳嗽三个星期了。",
        "函数指针传给排序程序。",
        "帝国在1898年失去了最后一块殖民地。",
        "她签了新公寓的租约。",
        "第九十分钟进球，二比一。",
        "这座火山已经沉寂了一个世纪。",
        "第4711号发票仍未付款。",
        "木桌上放着一个白色的杯子。",
        "蜜蜂靠太阳找到回家的路。",
    ),
}
"""By script: sentences of which no two have a subject in common."""


def usual_similarity(model: PooledModel, scripts: Collection[str], threads: int) -> float:
    """The cosine that unrelated texts seldom reach, the lowest of the scripts that the model knows; 0 without any."""
    measured = [_seldom_reached(model, SENTENCES[script], threads) for script in scripts if script in SENTENCES]
    return round(min(max(0.0, min(measured, default=0.0)), MAX_USUAL), 3)


def _seldom_reached(model: PooledModel, sentences: Sequence[str], threads: int) -> float:
    texts = [model.tokenizer.tokenize(sentence) for sentence in sentences]
    vectors = np.concatenate([model.embed(texts[at : at + AT_ONCE], threads) for at in range(0, len(texts), AT_ONCE)])
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    return float(cosines.mean() + DEVIATIONS * cosines.std())
