// What a model that was taught few words says of the others: the server's own sentence, so that one translation serves.

/** One sentence, "" where all words are known. */
export function unknownNote(words) {
  if (!words?.length) return "";
  return `This model does not know ${words.map((word) => `"${word}"`).join(", ")}: it draws what the other words say.`;
}
