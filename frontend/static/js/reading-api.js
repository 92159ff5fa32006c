// The calls below /reading/<pk>/. A failure carries words, and says whether trying again may help.

export class ApiError extends Error {
  constructor(message, { status = 0, body = null, passing = false } = {}) {
    super(message);
    this.status = status;
    this.body = body;
    this.passing = passing; // it may go away by itself: network, server restart, signed out
  }
}

export class Api {
  constructor(base) {
    this.base = base;
  }

  get(path) {
    return this.call(path, { method: "GET" });
  }

  post(path, body, options = {}) {
    return this.call(path, { method: "POST", body: JSON.stringify(body), ...options });
  }

  async call(path, options) {
    let answer;
    try {
      answer = await fetch(this.base + path, {
        ...options,
        cache: "no-store",
        credentials: "same-origin",
        headers: { Accept: "application/json", "Content-Type": "application/json", "X-CSRFToken": csrfToken() },
      });
    } catch {
      throw new ApiError("the server cannot be reached", { passing: true });
    }
    const json = (answer.headers.get("Content-Type") ?? "").includes("application/json");
    if (answer.redirected && !json) throw new ApiError("you are signed out; sign in again in another window", { status: 401, passing: true });
    const body = json ? await answer.json() : null;
    if (answer.ok && json) return body;
    const words = [body?.cause ?? body?.error, body?.next_step].filter(Boolean).join(" ") || `the server answered ${answer.status}`;
    throw new ApiError(words, { status: answer.status, body, passing: answer.status >= 500 || answer.status === 401 || answer.status === 403 });
  }
}

function csrfToken() {
  return document.cookie.split("; ").find((pair) => pair.startsWith("readroom_csrf="))?.slice(14) ?? "";
}
