import pytest
import torch
from tiny import FAMILIES, tiny_model
from transformers import DynamicCache

from plantune_lite.student import attention


def read(model, ids, mask, memory):
    """What each of the tokens makes likely, the first ten read at once and the others one by one."""
    with torch.no_grad():
        found = [model(ids[:, :10], attention_mask=mask[:, :10], past_key_values=memory).logits[:, -1]]
        for end in range(11, ids.shape[1] + 1):
            step = model(ids[:, end - 1 : end], attention_mask=mask[:, :end], past_key_values=memory)
            found.append(step.logits[:, -1])
    return torch.stack(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_token_by_token_it_sees_what_transformers_sees(family):
    model = tiny_model(family)
    ids = torch.randint(8, 300, (3, 10 + attention.ROOM + 5), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :6] = 0  # shorter, so padded on the left
    model.set_attn_implementation("sdpa")
    theirs = read(model, ids, mask, DynamicCache(config=model.config))
    model.set_attn_implementation(attention.register())
    ours = read(model, ids, mask, attention.memory_of(model.config))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rows_that_are_left_out_leave_the_others_as_they_were():
    model = tiny_model("llama")
    model.set_attn_implementation(attention.register())
    ids = torch.randint(8, 300, (3, 20), generator=torch.Generator().manual_seed(0))
    memory, kept = attention.memory_of(model.config), torch.tensor([2, 0])
    with torch.no_grad():
        model(ids, past_key_values=memory)
        memory.reorder_cache(kept)
        after = model(ids[kept, :1], past_key_values=memory).logits
        whole = model(torch.cat([ids[kept], ids[kept, :1]], -1)).logits[:, -1:]
    torch.testing.assert_close(after, whole, rtol=1e-4, atol=1e-5)


def test_a_token_is_added_in_place():
    memory = attention.memory_of(tiny_model("llama").config)
    new = torch.ones(1, 2, 1, 16)
    first, _ = memory.layers[0].update(new, new)
    second, _ = memory.layers[0].update(2 * new, new)
    assert second.data_ptr() == first.data_ptr() and second[0, 0, :, 0].tolist() == [1, 2]
