// The Durable Object of durable_object.py: a conversation in SQLite. Its answer leaves when the writes are on disk.
import { DurableObject } from "cloudflare:workers";

export class Conversation extends DurableObject {
  constructor(context, environment) {
    super(context, environment);
    this.sql = context.storage.sql;
    this.sql.exec(`create table if not exists state (id integer primary key, body text not null);
      create table if not exists message (number integer primary key, role text not null, body text not null)`);
  }

  async fetch(request) {
    const asked = await request.json();
    if (asked.fill) {
      this.sql.exec("insert into state values (1, ?)", JSON.stringify(asked.state));
      for (const [role, text] of asked.fill) this.add(role, text);
      return Response.json(0);
    }
    const state = JSON.parse(this.sql.exec("select body from state").one().body);
    const history = this.sql.exec("select role, body from message order by number desc limit 20").toArray();
    if (history.length === 0) throw new Error("there is no history");
    this.sql.exec("update state set body = ?", JSON.stringify(asked.state));
    this.add("user", asked.question);
    this.add("assistant", asked.answer);
    return Response.json(state.revision);
  }

  add(role, text) {
    this.sql.exec("insert into message (role, body) values (?, ?)", role, text);
  }
}

export default {
  fetch(request, environment) {
    const conversations = environment.CONVERSATIONS;
    return conversations.get(conversations.idFromName(new URL(request.url).pathname)).fetch(request);
  },
};
