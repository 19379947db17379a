// Vercel's AI SDK, with its provider for OpenAI-compatible servers.

import assert from "node:assert/strict";
import { APICallError, Output, generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";
import { BASE_URL, MODEL, check } from "./claims.mjs";

// docs: begin
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const nexttoken = createOpenAICompatible({
  name: "nexttoken",
  baseURL: BASE_URL,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = nexttoken(MODEL);
// docs: end

const prompt = "What is the weather in Oslo?";
const Weather = z.object({ city: z.enum(["Oslo", "Paris"]), days: z.number().int().min(1).max(7) });
const Animal = z.object({ kind: z.enum(["cat", "dog", "bird"]), legs: z.number().int().min(0).max(8), tame: z.boolean() });
const get_weather = tool({ description: "The weather in a city.", inputSchema: Weather, execute: ({ city }) => ({ city, sky: "clear" }) });

async function* chat() {
  const { text, finishReason, usage, warnings } = await generateText({ model, prompt, maxOutputTokens: 24 });
  assert.equal(typeof text, "string");
  assert.ok(["stop", "length"].includes(finishReason));
  assert.ok(usage.inputTokens > 0 && usage.outputTokens > 0);
  assert.deepEqual(warnings ?? [], []);
  yield "an answer has text, a reason to end, and counts";
}

async function* stream() {
  const settings = { model, prompt, temperature: 0, maxOutputTokens: 24 };
  const plain = await generateText(settings);
  const streamed = streamText(settings);
  let text = "";
  for await (const delta of streamed.textStream) text += delta;
  assert.equal(text, plain.text);
  assert.equal(await streamed.finishReason, plain.finishReason);
  yield "the deltas add up to the plain answer, and so does the reason to end";
}

async function* tools() {
  const once = { model, prompt, tools: { get_weather }, providerOptions: { nexttoken: { parallel_tool_calls: false } } };
  for (const toolChoice of ["required", { type: "tool", toolName: "get_weather" }]) {
    const { toolCalls, toolResults } = await generateText({ ...once, toolChoice });
    assert.equal(toolCalls.length, 1);
    Weather.parse(toolCalls[0].input);
    assert.equal(toolResults[0].output.sky, "clear");
  }
  yield "a required and a named tool are called with arguments that fit their schema";
  const streamed = streamText({ ...once, toolChoice: "required" });
  const kinds = [];
  for await (const part of streamed.stream) kinds.push(part.type);
  for (const kind of ["tool-input-start", "tool-input-delta", "tool-input-end", "tool-call", "tool-result"]) {
    assert.ok(kinds.includes(kind), kind);
  }
  assert.ok(!kinds.includes("error"));
  yield "a streamed call begins, grows and ends";
  const loop = await generateText({ ...once, maxOutputTokens: 100, stopWhen: isStepCount(2) });
  assert.ok(loop.steps.length <= 2);
  const answered = { tools: { get_weather }, toolChoice: "none", maxOutputTokens: 16 };
  const call = { type: "tool-call", toolCallId: "call_1", toolName: "get_weather", input: { city: "Oslo", days: 1 } };
  const result = { type: "tool-result", toolCallId: "call_1", toolName: "get_weather", output: { type: "text", value: "clear" } };
  const messages = [
    { role: "user", content: prompt },
    { role: "assistant", content: [call] },
    { role: "tool", content: [result] },
  ];
  assert.ok((await generateText({ model, messages, ...answered })).finishReason);
  yield "the client's own tool loop ends, and a tool's answer goes back into the conversation";
}

async function* structured() {
  const settings = { model, prompt, output: Output.object({ schema: Animal }) };
  Animal.parse((await generateText(settings)).output);
  yield "a zod schema is asked for and parsed";
  const streamed = streamText(settings);
  let last;
  for await (const partial of streamed.partialOutputStream) last = partial;
  assert.deepEqual(Animal.parse(await streamed.output), last);
  yield "and so it is from a stream";
  const choice = await generateText({ model, prompt, output: Output.choice({ options: ["yes", "no"] }) });
  assert.ok(["yes", "no"].includes(choice.output));
  yield "a choice is one of its options";
}

async function* completions() {
  const { text } = await generateText({ model: nexttoken.completionModel(MODEL), prompt: "Once", maxOutputTokens: 8 });
  assert.equal(typeof text, "string");
  yield "a prompt is continued";
}

async function* errors() {
  const unknown = generateText({ model: nexttoken("no-such-model"), prompt, maxRetries: 0 });
  await assert.rejects(unknown, (error) => APICallError.isInstance(error) && error.statusCode === 404 && /no such model/.test(error.message));
  yield "an unknown model is not found, in the server's words";
}

await check(chat, stream, tools, structured, completions, errors);
