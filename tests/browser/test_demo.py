"""Test the demonstration's page with real workers and the simulated upstream."""

from playwright.sync_api import Browser, expect

from tests.browser.stage import View
from tests.deployment import Deployment, wait_until
from tests.gatewayprocess import Gateway
from worker.core import texts


def test_s1_s4_loading_the_page_triggers_calls_and_a_reload_triggers_none(browser: Browser, redis_url: str) -> None:
    """Bubbles show the page's names; the buttons cause a failed call, a refusal and a lost response."""
    settings = {"poll_interval": 0.5, "demo": True, "unknown_lookup": 60}
    with Deployment(redis_url, speed=4, **settings) as deployment, Gateway(deployment.environment) as gateway:
        deployment.worker()
        with browser.new_page() as page:
            view = View(page)
            page.goto(f"http://127.0.0.1:{gateway.port}/demo")
            who = view.bubbles.locator("p:nth-of-type(1)")
            both = ["正在与 申请人(张三) 电话沟通中...", "正在与 被申请人(李四) 电话沟通中..."]
            expect(who).to_have_text(both)
            below, above = view.read()
            assert below["top"] > above["top"]
            page.reload()
            expect(who).to_have_text(both)
            expect(page.locator("#said")).to_have_text("案件已加载,后端已发起外呼。")
            wait_until(lambda: deployment.store.client.llen("outbound.trigger") == 0)
            assert set(deployment.simulator.calls_per_pair().values()) == {1}

            page.get_by_role("button", name="通话失败").click()
            expect(view.notices).to_have_text(["与 申请人(张三) 的通话失败"])
            expect(view.bubbles).to_have_count(1)

            page.get_by_role("button", name="拒绝外呼").click()
            refused = "部分联系人外呼失败:被申请人(李四)(未到下一轮外呼时间,请等待)"
            expect(view.notices.filter(has_text=refused)).to_have_count(1)

            page.get_by_role("button", name="应答丢失").click()
            unknown = view.notices.filter(has_text="外呼结果未知,电话可能已拨出,请勿重复发起")
            expect(unknown).to_have_count(1)
            expect(who).to_have_text(["正在与 未知联系人 电话沟通中..."])
            expect(unknown).to_have_count(0)
            assert set(deployment.simulator.calls_per_pair().values()) == {1}
            assert view.said == []


def test_s28_s34_page_shows_the_records_after_a_worker_was_killed(browser: Browser, redis_url: str) -> None:
    """Calls continue and end while no worker runs; afterwards the page agrees with `callwatch status`."""
    settings = {"poll_interval": 0.5, "demo": True}
    with Deployment(redis_url, speed=4, **settings) as deployment, Gateway(deployment.environment) as gateway:
        worker = deployment.worker()
        with browser.new_page() as page:
            view = View(page)
            page.goto(f"http://127.0.0.1:{gateway.port}/demo?scene=away&case=C-4007")
            expect(view.more).to_have_text("还有 1 个通话")
            view.more.click()
            worker.kill()
            ended, failed = (job["job_id"] for job in deployment.simulator.jobs("C-4007")[:2])
            deployment.simulator.end(ended)
            deployment.simulator.end(failed, "Failed")
            deployment.worker(name="next")

            def is_shown() -> bool:
                calls = deployment.store.calls(case_id="C-4007")
                return [(call.job_id, texts.label(call.call_status)) for call in calls] == view.labels()

            wait_until(lambda: view.bubbles.count() == 4 and is_shown())
            expect(view.notices).to_have_text(["与 被申请人(李四) 的通话失败"])
            assert set(deployment.simulator.calls_per_pair().values()) == {1}
