// Where the server is, and how the checks of a JavaScript client are run.

export const BASE_URL = process.env.BASE_URL ?? "http://localhost:8000/v1";
export const MODEL = process.env.MODEL ?? "nexttoken-tiny";

// Run the checks of each feature: they assert, then yield what has proved true, which is printed.
export async function check(...features) {
  for (const feature of features) {
    for await (const claim of feature()) console.log(`${feature.name}: ${claim}`);
  }
}
