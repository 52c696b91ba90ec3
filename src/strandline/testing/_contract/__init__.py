"""The conformance suite for journals: subclass `JournalContract`, create your journal in it, run pytest.

    class TestMine(JournalContract):
        def make_journal(self, folder, clock):
            return MyJournal(folder / "journal", clock)

        async def reopen(self, journal, folder, clock):
            await journal.close()
            return self.make_journal(folder, clock)

Each test is named for its invariant. None sleeps, each has a deadline. Every test ends by closing the journal and
checking that it delivered no claims that the test has not seen.
"""

from strandline.testing._contract.claims import ClaimsContract
from strandline.testing._contract.collecting import CollectingContract
from strandline.testing._contract.control import ControlContract
from strandline.testing._contract.conversations import ConversationsContract
from strandline.testing._contract.delays import DelaysContract
from strandline.testing._contract.deliveries import DeliveriesContract
from strandline.testing._contract.edits import EditsContract
from strandline.testing._contract.ends import EndsContract
from strandline.testing._contract.files import FilesContract
from strandline.testing._contract.forks import ForksContract
from strandline.testing._contract.going_back import GoingBackContract
from strandline.testing._contract.history import HistoryContract
from strandline.testing._contract.holds import HoldsContract
from strandline.testing._contract.inputs import InputsContract
from strandline.testing._contract.joins import JoinsContract
from strandline.testing._contract.keys import KeysContract
from strandline.testing._contract.lists import ListsContract
from strandline.testing._contract.options import OptionsContract
from strandline.testing._contract.pages import PagesContract
from strandline.testing._contract.pauses import PausesContract
from strandline.testing._contract.policies import PoliciesContract
from strandline.testing._contract.principals import PrincipalsContract
from strandline.testing._contract.queue_time import QueueTimeContract
from strandline.testing._contract.queues import QueuesContract
from strandline.testing._contract.resolutions import ResolutionsContract
from strandline.testing._contract.rest import RestContract
from strandline.testing._contract.schedules import SchedulesContract
from strandline.testing._contract.waiting import WaitingContract

__all__ = ["JournalContract"]


class JournalContract(
    QueuesContract,
    ClaimsContract,
    HistoryContract,
    HoldsContract,
    EndsContract,
    ControlContract,
    InputsContract,
    JoinsContract,
    CollectingContract,
    KeysContract,
    ListsContract,
    PagesContract,
    PoliciesContract,
    PausesContract,
    PrincipalsContract,
    ResolutionsContract,
    GoingBackContract,
    ConversationsContract,
    ForksContract,
    RestContract,
    QueueTimeContract,
    DelaysContract,
    EditsContract,
    OptionsContract,
    WaitingContract,
    SchedulesContract,
    FilesContract,
    DeliveriesContract,
):
    """The conformance suite: subclass it with a name that starts with `Test`."""
