"""Qwen3.5-2B, its text part, learns to plan before it solves (M1): 16-bit LoRA SFT, one 12 GB GPU. Gain: unmeasured.

Costs: with a Gemini key the calls for 500 problems (`plantune estimate qwen3_5_2b_sft` prints the cost
beforehand); without a key the untuned model plans for itself, which costs only time; its plans are not scored.
Memory: 5.9 GiB for SFT by `plantune estimate`, not yet checked on a GPU. In 16 bits, because Unsloth
advises against 4 bits for this family; a GPU without bf16 (a T4) computes in float32, slowly.
Expect: unmeasured. Thinking stays off, in training and in answering, so that the plan takes its place; before
anything is spent, `plantune run` tests it on 64 of the problems and prints how many it already solves.

Out of memory? Lower in this order, with --again sft: sft.batch_size=1 sft.accumulate=8, student.max_length=768,
student.lora_rank=16 student.lora_alpha=16.
The paper's size: problems.limit=none distill.keep=best evaluate.suites=paper evaluate.limit=none (its learning rate
of 5e-6 is for training all weights and would hardly move an adapter)
"""

from plantune_lite import SFT, Corpus, Distill, Evaluate, Export, Problems, Recipe, Student, run

RECIPE = Recipe(
    name="qwen3_5_2b_sft",
    seed=0,
    problems=Problems("math", split="train", levels=(3, 4, 5), limit=500),
    distill=Distill(teacher="gemini", plans=5, min_score=80, max_tokens=1024, max_usd=5.0),  # no key set: "self"
    corpus=Corpus(filter="both"),
    student=Student(
        "qwen3_5_2b",
        bits=16,
        max_length=1024,
        lora_rank=32,
        # In three of four layers, the last three replace the attention projections.
        lora_targets=(
            *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
            *("in_proj_qkv", "in_proj_z", "out_proj"),
        ),
        checkpointing=True,
    ),
    sft=SFT(target="plan+solution", epochs=1, learning_rate=2e-4, batch_size=2, accumulate=4),
    evaluate=Evaluate(("own", "math500"), limit=150, max_tokens=1536),
    export=Export(("adapter", "merged", "q8_0")),
    max_hours=6.0,
)

if __name__ == "__main__":
    run(RECIPE)
