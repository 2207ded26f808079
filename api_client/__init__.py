"""Client of upstream's outbound-bot API: three requests, and errors by the action that they allow."""

from api_client.async_status import AsyncStatus
from api_client.client import UpstreamClient
from api_client.errors import ApiError, NotSent, OutcomeUnknown, ProtocolError, Rejected, Unavailable
from api_client.models import CallRecord, CallRequest, CallStatus, ConversationLog, Utterance
from api_client.reasons import MEANINGS, REASONS, REQUEST_REASONS, Reason, RequestReason
from api_client.self_test import GateBrokenError, check_gate

__all__ = [
    "MEANINGS",
    "REASONS",
    "REQUEST_REASONS",
    "ApiError",
    "AsyncStatus",
    "CallRecord",
    "CallRequest",
    "CallStatus",
    "ConversationLog",
    "GateBrokenError",
    "NotSent",
    "OutcomeUnknown",
    "ProtocolError",
    "Reason",
    "Rejected",
    "RequestReason",
    "Unavailable",
    "UpstreamClient",
    "Utterance",
    "check_gate",
]
