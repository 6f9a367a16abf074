// Wires a transcript that `transcript_view` has written: a click on a word plays the recording from there, the word
// that is heard is lit, and the spectrogram moves with it. Call it again for markup that has replaced the old one.
function attachTranscript(element) {
  "use strict";
  const root = element.matches(".transcript") ? element : element.querySelector(".transcript");
  if (!root || root.dataset.attached) return;
  root.dataset.attached = "yes";
  const PIXELS_PER_SECOND = 100;
  const audio = root.querySelector("audio");
  const text = root.querySelector(".transcript-text");
  const status = root.querySelector(".transcript-status");
  const strip = root.querySelector(".transcript-strip");
  const track = root.querySelector(".transcript-track");
  const words = text ? [...text.querySelectorAll(".word")] : [];
  const starts = words.map((word) => Number(word.dataset.start));
  const ends = words.map((word) => Number(word.dataset.end));
  const seconds = Number(root.dataset.seconds);
  const labels = new Map(); // of the words that the strip shows, by their number
  let now = -1; // the word that is heard
  let chosen = 0; // the word that the Tab key reaches
  let cursor = null;

  nameLanguages();
  const places = strip ? layOutStrip() : []; // of words in the strip
  if (words.length) {
    choose(0);
    text.addEventListener("click", (event) => play(words.indexOf(event.target.closest(".word"))));
    text.addEventListener("keydown", onKey);
    text.addEventListener("pointerover", (event) => describe(words.indexOf(event.target.closest(".word"))));
    text.addEventListener("pointerleave", () => describe(now));
    text.addEventListener("focusin", (event) => describe(words.indexOf(event.target.closest(".word"))));
  }
  for (const name of ["timeupdate", "ended"]) audio.addEventListener(name, show);
  for (const name of ["seeking", "seeked"]) audio.addEventListener(name, reveal);
  audio.addEventListener("play", () => requestAnimationFrame(follow));

  function play(number) {
    if (number < 0) return;
    choose(number);
    seek(starts[number]);
  }

  function seek(second) {
    audio.currentTime = second;
    const started = audio.play();
    if (started) started.catch(() => {}); // the browser may refuse sound; the place is right all the same
    show();
  }

  function onKey(event) {
    const isRightToLeft = getComputedStyle(text).direction === "rtl";
    const forward = isRightToLeft ? "ArrowLeft" : "ArrowRight";
    const backward = isRightToLeft ? "ArrowRight" : "ArrowLeft";
    const steps = { [forward]: 1, [backward]: -1, Home: -words.length, End: words.length };
    if (event.key in steps) {
      choose(Math.min(Math.max(chosen + steps[event.key], 0), words.length - 1));
      words[chosen].focus();
    } else if (event.key === "Enter" || event.key === " ") {
      play(chosen);
    } else {
      return;
    }
    event.preventDefault();
  }

  // Makes a word the one that the Tab key reaches. Only this one is a button, so that a screen reader reads the others
  // as text.
  function choose(number) {
    words[chosen].removeAttribute("tabindex");
    words[chosen].removeAttribute("role");
    chosen = number;
    words[chosen].tabIndex = 0;
    words[chosen].setAttribute("role", "button");
  }

  function describe(number) {
    if (number < 0) return;
    const { confidence } = words[number].dataset;
    status.textContent =
      `${clock(starts[number])} – ${clock(ends[number])} s` + (confidence ? ` · confidence ${confidence}` : "");
  }

  // Returns the last word that has begun, until the next one or a second after its end; -1 for none.
  function wordAt(second) {
    let low = 0;
    let high = words.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[middle] <= second + 0.001) low = middle + 1;
      else high = middle;
    }
    return low && second < ends[low - 1] + 1 ? low - 1 : -1;
  }

  function show() {
    const second = audio.currentTime;
    const number = audio.ended ? -1 : wordAt(second);
    if (number !== now) {
      if (now >= 0) words[now].classList.remove("now");
      labels.get(now)?.classList.remove("now");
      now = number;
      if (now >= 0) {
        words[now].classList.add("now");
        labels.get(now)?.classList.add("now");
        describe(now);
        scrollText(words[now]);
      }
    }
    if (cursor) cursor.style.left = `${second * PIXELS_PER_SECOND}px`;
  }

  // Shows the place of the recording in the strip as well, which a reader may have scrolled elsewhere meanwhile.
  function reveal() {
    show();
    if (strip) strip.scrollLeft = audio.currentTime * PIXELS_PER_SECOND - strip.clientWidth / 3;
  }

  function follow() {
    reveal();
    if (!audio.paused && root.isConnected) requestAnimationFrame(follow);
  }

  // Scrolls the text, not the page.
  function scrollText(word) {
    const top = word.offsetTop;
    if (top < text.scrollTop || top + word.offsetHeight > text.scrollTop + text.clientHeight) {
      text.scrollTop = top - text.clientHeight / 3;
    }
  }

  // Places the pictures of the spectrogram, and each word in the first of two lines where it fits; returns the places,
  // with the pixels up to the next word of the line.
  function layOutStrip() {
    track.style.width = `${Math.ceil(seconds * PIXELS_PER_SECOND)}px`;
    const tileSeconds = 20;
    track.querySelectorAll("img").forEach((image, number) => {
      const begin = number * tileSeconds;
      image.style.left = `${begin * PIXELS_PER_SECOND}px`;
      image.style.width = `${Math.min(tileSeconds, seconds - begin) * PIXELS_PER_SECOND}px`;
    });
    cursor = document.createElement("div");
    cursor.className = "transcript-cursor";
    track.append(cursor);
    track.addEventListener("click", (event) => {
      const { left } = track.getBoundingClientRect();
      seek(Math.max(0, Math.min(seconds, (event.clientX - left) / PIXELS_PER_SECOND)));
    });
    strip.addEventListener("scroll", drawLabels, { passive: true });
    new ResizeObserver(drawLabels).observe(strip);
    const free = [0, 0]; // pixels up to which each line is full
    const previous = [null, null]; // the last word of each line
    return words.map((word, number) => {
      const left = starts[number] * PIXELS_PER_SECOND;
      const line = free[0] <= left || free[0] <= free[1] ? 0 : 1;
      if (line) track.classList.add("two-lines");
      if (previous[line]) previous[line].width = left - previous[line].left;
      free[line] = left + 8 + 8 * word.textContent.length;
      previous[line] = { left, line, width: Infinity };
      return previous[line];
    });
  }

  // Draws the words that the strip shows, and removes the others: a long recording has many thousands.
  function drawLabels() {
    const first = strip.scrollLeft / PIXELS_PER_SECOND - 5;
    const last = (strip.scrollLeft + strip.clientWidth) / PIXELS_PER_SECOND + 5;
    for (const [number, label] of labels) {
      if (starts[number] < first || starts[number] > last) {
        label.remove();
        labels.delete(number);
      }
    }
    for (let number = 0; number < words.length; number++) {
      if (starts[number] < first || starts[number] > last || labels.has(number)) continue;
      const label = document.createElement("span");
      label.className = number === now ? "transcript-label now" : "transcript-label";
      label.textContent = words[number].textContent;
      const { left, line, width } = places[number];
      label.style.left = `${left}px`;
      label.style.top = `${5.6 + 1.4 * line}rem`;
      if (width < Infinity) label.style.maxWidth = `${width}px`;
      track.append(label);
      labels.set(number, label);
    }
  }

  // Adds the name of each language in the language of the reader's browser.
  function nameLanguages() {
    for (const item of root.querySelectorAll(".transcript-language")) {
      try {
        const name = new Intl.DisplayNames(undefined, { type: "language", fallback: "none" }).of(item.textContent);
        if (name) item.textContent = `${name} (${item.textContent})`;
      } catch {
        // not the tag of a language
      }
    }
  }

  function clock(second) {
    const minutes = Math.floor(second / 60);
    const rest = (second - 60 * minutes).toFixed(1).padStart(4, "0");
    return minutes < 60
      ? `${minutes}:${rest}`
      : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
  }
}
