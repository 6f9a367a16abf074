// Wires every transcript of a page that stands by itself.
document.querySelectorAll(".transcript").forEach(attachTranscript);
