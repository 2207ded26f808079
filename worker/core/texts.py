"""Product texts: messages and log lines in their exact wording, labels (S30) and durations (S31)."""

from collections.abc import Iterable

LABELS = {
    "Scheduling": "拨号中",
    "Executing": "通话中",
    "Paused": "已暂停",
    "Drafted": "草稿",
    "Succeeded": "已完成",
    "Failed": "失败",
    "Cancelled": "已取消",
}

MISSING_PARAMETERS = "缺少必要参数,跳过外呼触发"
INVALID_PARAMETERS = "外呼参数无效,跳过外呼触发"
ALREADY_ACTIVE = "已有活跃外呼任务,跳过发起新外呼"
DISABLED = "外呼已暂停,未发起新外呼"
DEFERRED = "暂不能外呼,已推迟,到允许的时间自动发起"
DIAL_FAILED = "发起外呼失败,请稍后重试"
OUTCOME_UNKNOWN = "外呼结果未知,电话可能已拨出,请勿重复发起"
NOTHING_FOUND = "未查到外呼记录,暂时保留锁定,稍后自动释放"
NOT_ASKED = "无法向上游查询外呼记录,暂时保留锁定,稍后自动释放"
TRIGGER_EXPIRED = "外呼任务已过期,未发起外呼"
HANDLED_BEFORE = "该外呼任务此前已处理,未重复发起"
ERASED = "案件记录已清除,未发起外呼"
LOOK_FAILED = "无法确认上次外呼状态,未发起新外呼"
OUTAGE_BEGAN = "上游状态查询中断,期间不计失败次数"
OUTAGE_ENDED = "上游状态查询已恢复"
WATCH_LOST = "获取通话状态失败,请检查网络连接"
ADOPTED = "已查到通话,继续监控"
RELEASED = "外呼结果已由人工确认"
UNKNOWN_ERROR = "未知错误"
UNKNOWN_CONTACT = "未知联系人"

REFUSALS = {1001: "未到下一轮外呼时间,请等待", 1002: "外呼次数已达上限"}
HIGHEST_CODE = 99_999  # the highest error code that is shown: a longer number may be a telephone or ID card number


def label(call_status: str) -> str:
    """Return the label of a call status (S30); an unknown status is returned unchanged."""
    return LABELS.get(call_status, call_status)


def duration(seconds: float | None) -> str:
    """Return seconds as `MM:SS`, from an hour on as `H:MM:SS`, and None as `00:00` (S31)."""
    total = max(0, int(seconds or 0))
    hours, rest = divmod(total, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{secs:02}" if hours else f"{minutes:02}:{secs:02}"


def dialling(case_id: str, mediation_id: str) -> str:
    """Return the line logged before a call request (S15)."""
    return f"发起外呼,mediationId: {mediation_id}, caseId: {case_id}"


def job_stored(job_id: str, call_status: str) -> str:
    """Return the line logged for each started job (S15)."""
    return f"存储 jobId: {job_id}, callStatus: {call_status}"


def shown_code(error_code: int | None) -> int | None:
    """Return an error code for logs, history and notices; None if the number may be personal data (S37)."""
    return error_code if error_code is not None and 0 <= error_code <= HIGHEST_CODE else None


def refusal(error_code: int | None) -> str:
    """Return callwatch's own text for a refusal (S9, S38)."""
    code = shown_code(error_code)
    return UNKNOWN_ERROR if code is None else REFUSALS.get(code, f"错误码 {code}")


def refusals(refused: Iterable[tuple[str, str]], *, some_started: bool, more: int = 0) -> str:
    """Return the warning about refused persons (S8); `more` counts the refused persons that it does not name.

    `refused` holds pairs of person and message; for a log the caller masks the persons.
    """
    head = "部分联系人外呼失败:" if some_started else "外呼失败:"
    named = [f"{person or UNKNOWN_CONTACT}({message or UNKNOWN_ERROR})" for person, message in refused]
    return head + "、".join([*named, others(more)] if more else named)


def others(number: int) -> str:
    """Return the text for `number` further persons that a text does not name."""
    return f"另有 {number} 人"


def more_refused(number: int) -> str:
    """Return the text about the refusals of one answer that are not reported one by one."""
    return f"{others(number)}外呼失败"


def call_failed(person: str) -> str:
    """Return the notice about a call that ended `Failed` (S35); `person` is masked."""
    return f"与 {person} 的通话失败"


def dial_failed(reason: str) -> str:
    """Return the line logged when a trigger failed (S12)."""
    return f"makeCallV2 failed: {reason}"


def unknown_outcome(reason: str) -> str:
    """Return the line logged when an answer names no call and refuses none (S13); `reason` is one of the closed set."""
    return f"{OUTCOME_UNKNOWN}: {reason}"


def polling(job_id: str) -> str:
    """Return the line logged for each poll (S26)."""
    return f"轮询查询 jobId: {job_id}"


def terminal(job_id: str) -> str:
    """Return the line logged when a call has ended (S22)."""
    return f"检测到终态,移除 jobId: {job_id}"


def query_failed(failures: int, limit: int, job_id: str) -> str:
    """Return the line logged for a failed query (S23)."""
    return f"查询失败,重试次数: {failures}/{limit}, jobId: {job_id}"


def retries_exceeded(job_id: str) -> str:
    """Return the line logged when a watch ends after too many failed queries (S24)."""
    return f"重试次数超限,jobId: {job_id}"


def watch_expired(job_id: str) -> str:
    """Return the line logged when a watch ends at its deadline (S25)."""
    return f"轮询超时,jobId: {job_id}"


def records_without_job(persons: Iterable[str], *, more: int = 0) -> str:
    """Return the warning about records that neither started nor refused a call (S7); `persons` are masked."""
    return "外呼记录缺少 jobId,通话结果未知:" + "、".join([*persons, others(more)] if more else persons)
