/** Product texts; formats of durations, times and persons (S30-S35). */
/** @import { Party } from "./types.js" */

export const REGION = "智能外呼";
export const WORKING = "智能体工作中";
export const LASTED = "已持续: ";
export const MINIMISE = "最小化";
export const DISMISS = "关闭";
export const UNKNOWN_CONTACT = "未知联系人";
export const UNKNOWN_ERROR = "未知错误";

export const talking = (/** @type {string} */ name) => `正在与 ${name} 电话沟通中...`;
export const status = (/** @type {string} */ label) => `状态:${label}`;
export const more = (/** @type {number} */ count) => `还有 ${count} 个通话`;
export const expand = (/** @type {number} */ count) => `展开智能外呼,${count} 个通话`;
export const interrupted = (/** @type {string} */ time) => `更新中断,最后更新 ${time}`;
export const callFailed = (/** @type {string} */ name) => `与 ${name} 的通话失败`;

/** Warn of refused persons (S8), with names and messages. @param {string[][]} refused @param {boolean} [someStarted] */
export function refusals(refused, someStarted) {
  const named = refused.map(([name, message]) => `${name || UNKNOWN_CONTACT}(${message || UNKNOWN_ERROR})`);
  return (someStarted ? "部分联系人外呼失败:" : "外呼失败:") + named.join("、");
}

const pairs = (/** @type {number[]} */ ...numbers) => numbers.map((one) => `${one}`.padStart(2, "0")).join(":");

/** Return seconds as `MM:SS`, from an hour on as `H:MM:SS` (S31). @param {number} seconds */
export function duration(seconds) {
  const total = Math.max(0, Math.trunc(seconds) || 0);
  const rest = pairs(Math.trunc(total / 60) % 60, total % 60);
  return total < 3600 ? rest : `${Math.trunc(total / 3600)}:${rest}`;
}

/** Return the time of day in the reader's zone. @param {number} epoch seconds */
export function clock(epoch) {
  const at = new Date(epoch * 1000);
  return pairs(at.getHours(), at.getMinutes(), at.getSeconds());
}

/** Mask a person id as the gateway does (S37). @param {string} person */
export function maskPerson(person) {
  const characters = [...person];
  const { length } = characters;
  if (length < 8 && person.startsWith("***")) return person;
  return `***${characters.slice(length >= 8 ? -4 : length >= 3 ? -1 : length).join("")}`;
}

/** Name the one party with this masked id, else return the masked id (S32). @param {string} person @param {Party[]} parties */
export function nameOf(person, parties) {
  const found = new Map();
  for (const party of parties) {
    const id = `${party?.person_id ?? ""}`;
    if (id && maskPerson(id) === person) found.set(id, party);
  }
  const [party] = found.values();
  if (found.size !== 1 || !party.name) return person || UNKNOWN_CONTACT;
  return party.role ? `${party.role}(${party.name})` : `${party.name}`;
}
