"""Real rivals beside ours: the same jobs, trained by other systems on this machine, in interleaved runs."""
