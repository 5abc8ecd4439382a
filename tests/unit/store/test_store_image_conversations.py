from core.store.turns import Store
from tests.unit.store.store_samples import HF, IMAGE, a_plan


def test_conversations_with_and_without_images_are_listed_apart(store: Store) -> None:
    seen = a_plan(HF, images=(IMAGE,))
    follow_up = a_plan(HF)
    said = a_plan(HF, conversation_id="words")
    for plan in (seen, follow_up, said):
        store.save_turn(plan, None)

    def listed(**wanted: bool) -> set[str]:
        return {summary.id for summary in store.conversations(**wanted)}

    assert listed(with_images=True) == {"talk"}
    assert listed(with_images=False) == {"words"}
    assert listed() == {"talk", "words"}
