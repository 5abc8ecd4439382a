from core.store.turns import Store
from tests.unit.store.store_samples import HF, PICTURE, a_plan


def test_conversations_with_and_without_pictures_are_listed_apart(store: Store) -> None:
    seen = a_plan(HF, pictures=(PICTURE,))
    follow_up = a_plan(HF)
    said = a_plan(HF, conversation_id="words")
    for plan in (seen, follow_up, said):
        store.save_turn(plan, None)

    def listed(**wanted: bool) -> set[str]:
        return {summary.id for summary in store.conversations(**wanted)}

    assert listed(with_pictures=True) == {"talk"}
    assert listed(with_pictures=False) == {"words"}
    assert listed() == {"talk", "words"}
