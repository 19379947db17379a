// The official client for JavaScript.

import assert from "node:assert/strict";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { BASE_URL, MODEL, check } from "./claims.mjs";

// docs: begin
import OpenAI from "openai";

const client = new OpenAI({ baseURL: BASE_URL, apiKey: "none" });
// docs: end

const messages = [{ role: "user", content: "What is the weather in Oslo?" }];
const Weather = z.object({ city: z.enum(["Oslo", "Paris"]), days: z.number().int().min(1).max(7) });
const Animal = z.object({ kind: z.enum(["cat", "dog", "bird"]), legs: z.number().int().min(0).max(8), tame: z.boolean() });
const weather = zodFunction({ name: "get_weather", description: "The weather in a city.", parameters: Weather });

const ask = (fields) => client.chat.completions.create({ model: MODEL, messages, max_tokens: 200, ...fields });

async function* chat() {
  const answer = await ask({ max_tokens: 24 });
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.equal(typeof answer.choices[0].message.content, "string");
  assert.ok(["stop", "length"].includes(answer.choices[0].finish_reason));
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  yield "an answer has text, a reason to end, and counts that add up";
  const { data, response } = await ask({ max_tokens: 1 }).withResponse();
  assert.equal(data.object, "chat.completion");
  assert.ok(response.headers.get("x-request-id"));
  yield "an answer has a request id";
  const listed = await client.models.list();
  assert.ok(listed.data.some((model) => model.id === MODEL));
  yield "the served model is listed";
}

async function* stream() {
  const fields = { temperature: 0, max_tokens: 24 };
  const plain = (await ask(fields)).choices[0];
  const chunks = [];
  for await (const chunk of await ask({ ...fields, stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
  const usage = chunks.pop();
  assert.deepEqual(usage.choices, []);
  assert.ok(usage.usage.completion_tokens > 0);
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.at(-1).choices[0].finish_reason, plain.finish_reason);
  yield "role first, the reason to end in the end, then usage";
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), plain.message.content);
  yield "the deltas add up to the plain answer";
  const accumulated = client.chat.completions.stream({ model: MODEL, messages, ...fields });
  assert.equal(await accumulated.finalContent(), plain.message.content);
  yield "the client's own accumulator comes to the same answer";
  const broken = await ask({ stream: true });
  for await (const _ of broken) break;
  yield "a stream can be left";
}

async function* tools() {
  const once = { tools: [weather], parallel_tool_calls: false };
  for (const tool_choice of ["required", { type: "function", function: { name: "get_weather" } }]) {
    const parsed = await client.chat.completions.parse({ model: MODEL, messages, tool_choice, ...once });
    const [call] = parsed.choices[0].message.tool_calls;
    Weather.parse(call.function.parsed_arguments);
  }
  yield "a required and a named tool are called with arguments that fit their schema";
  const streamed = client.chat.completions.stream({ model: MODEL, messages, tool_choice: "required", ...once });
  const fragments = [];
  streamed.on("tool_calls.function.arguments.delta", (event) => fragments.push(event));
  const message = await streamed.finalMessage();
  assert.ok(fragments.length > 0);
  const [call] = message.tool_calls;
  Weather.parse(JSON.parse(call.function.arguments));
  yield "a streamed call's arguments add up to JSON of the schema";
  const told = [
    ...messages,
    { role: "assistant", content: null, tool_calls: [call] },
    { role: "tool", tool_call_id: call.id, content: "clear" },
  ];
  const answer = await ask({ messages: told, tools: [weather], tool_choice: "none", max_tokens: 16 });
  assert.equal(answer.choices[0].message.tool_calls, undefined);
  yield "the tool's answer goes back into the conversation";
  const get_weather = { type: "function", function: { ...weather.function, parse: JSON.parse, function: () => "clear" } };
  const tool_choice = { type: "function", function: { name: "get_weather" } };
  const runner = client.chat.completions.runTools({ model: MODEL, messages, tools: [get_weather], tool_choice });
  assert.equal(await runner.finalFunctionToolCallResult(), "clear");
  yield "the client runs the tool itself";
}

async function* structured() {
  const response_format = zodResponseFormat(Animal, "animal");
  const parsed = await client.chat.completions.parse({ model: MODEL, messages, response_format });
  Animal.parse(parsed.choices[0].message.parsed);
  yield "a zod schema is asked for and parsed";
  const streamed = client.chat.completions.stream({ model: MODEL, messages, response_format });
  Animal.parse((await streamed.finalChatCompletion()).choices[0].message.parsed);
  yield "and so it is from a stream";
}

async function* completions() {
  const answer = await client.completions.create({ model: MODEL, prompt: "Once", max_tokens: 8, echo: true, logprobs: 1 });
  assert.ok(answer.choices[0].text.startsWith("Once"));
  assert.equal(answer.choices[0].logprobs.tokens.length, answer.usage.total_tokens);
  yield "a prompt is continued, with the log-probability of each token";
}

async function* errors() {
  await assert.rejects(ask({ temperature: 3 }), (error) => error instanceof OpenAI.BadRequestError && error.param === "temperature");
  yield "what is wrong is refused by name";
  await assert.rejects(ask({ model: "no-such-model", stream: true }), { status: 404, code: "model_not_found" });
  yield "an unknown model is not found";
}

await check(chat, stream, tools, structured, completions, errors);
