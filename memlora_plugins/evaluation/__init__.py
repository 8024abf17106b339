"""How well memories work: what `memlora eval …` measures.

Data        locomo (with corrections, load_report), musique, conversations
Scores      metrics, similarity (with wordnet), judge (with judge_reply), statistics
Searching   retrieval (BM25 and dense baselines), evidence/ (what of the evidence a search finds)
Answering   pipeline (any conversations), locomo_qa/, memo_qa/, vqa/
Costs       efficiency/
Shared      harness/ (models, calls, scratch memories, configuration files), report, plots
"""
