/** An element with a text and a class. */
export function make(name, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) {
    element.textContent = text;
  }
  if (className) {
    element.className = className;
  }
  return element;
}
