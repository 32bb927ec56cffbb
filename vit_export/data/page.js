"use strict";

const status = document.getElementById("copied");

function copyOld(node) {
  const range = document.createRange();
  range.selectNodeContents(node);
  const selection = window.getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
  const done = document.execCommand("copy");
  selection.removeAllRanges();
  return done;
}

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const node = document.getElementById(button.dataset.copy);
    let done = false;
    try {
      await navigator.clipboard.writeText(node.textContent);
      done = true;
    } catch {
      // A page opened from a disk or inside a frame may have no clipboard of the new kind.
      done = copyOld(node);
    }
    button.textContent = done ? "Copied" : "Select and copy by hand";
    status.textContent = done ? "Copied to the clipboard." : "Copying is not allowed here.";
    setTimeout(() => { button.textContent = "Copy"; status.textContent = ""; }, 2000);
  });
}

// Paper has no way to open what is folded.
window.addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
