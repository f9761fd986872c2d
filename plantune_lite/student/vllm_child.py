"""Answer prompts with a vLLM engine in a separate process; vllm_engine.py starts it and talks to it.

Input, a line of JSON each: first vLLM's EngineArgs, then jobs

    {"job": 1, "prompts": [[1, 2, 3]], "seeds": [7], "sampling": {"temperature": 1.0, "max_tokens": 64}, "adapter": {}}

Output: {"ready": true}, then a line for each reply as soon as it has ended, {"job", "row", "ids", "logprobs"}, or
{"job", "error"}. It ends when its input does, and a new job ends the one before.
"""

import json
import os
import queue
import sys
import threading
from typing import Any


def main() -> None:
    """Build the engine and answer job after job."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # vLLM's own output must not mix with replies
    settings = json.loads(sys.stdin.readline())
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(jobs,), daemon=True).start()

    from vllm import EngineArgs, LLMEngine

    engine = LLMEngine.from_engine_args(EngineArgs(**settings))
    print(json.dumps({"ready": True}), file=out)
    while True:
        job = jobs.get()
        try:
            _answer(engine, job, jobs, out)
        except Exception as error:
            print(json.dumps({"job": job["job"], "error": f"{type(error).__name__}: {error}"}), file=out)


def _read(jobs: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        jobs.put(json.loads(line))
    os._exit(0)  # the parent has ended


def _answer(engine: Any, job: dict[str, Any], jobs: queue.Queue[dict[str, Any]], out: Any) -> None:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest(**job["adapter"]) if job["adapter"] else None
    names = [f"{job['job']}-{row}" for row in range(len(job["prompts"]))]
    for name, ids, seed in zip(names, job["prompts"], job["seeds"], strict=True):
        sampling = SamplingParams(**job["sampling"], seed=seed)
        engine.add_request(name, {"prompt_token_ids": ids}, sampling, lora_request=adapter)
    while engine.has_unfinished_requests():
        if not jobs.empty():
            engine.abort_request(names)
            return
        for reply in engine.step():
            if reply.finished:
                best = reply.outputs[0]
                logs = [at[id].logprob for id, at in zip(best.token_ids, best.logprobs or (), strict=False)]
                row = int(reply.request_id.partition("-")[2])
                print(
                    json.dumps({"job": job["job"], "row": row, "ids": list(best.token_ids), "logprobs": logs}), file=out
                )


if __name__ == "__main__":
    main()
