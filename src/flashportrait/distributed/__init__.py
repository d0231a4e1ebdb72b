"""Several processes, one video: each with the network on a device of its own.

The first process runs everything as if it were alone, but for the passes of the network: those it shares out. Windows
and guidance branches go to whole processes or, where there are more processes than passes at once, to groups of them
that split one pass along its tokens (:mod:`.sequence`). The others hold the network, or where their weights are shared
out (``weights.shards``) a part of it, and answer (:mod:`.passes`), so the result, its numbers, resuming and what is
written don't depend on how many they are.
"""
