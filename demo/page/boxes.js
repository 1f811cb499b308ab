// Boxes over a picture that is shown with object-fit: contain.

// Neighbouring ids get distant hues (golden ratio steps), as in detq's own pictures.
const hue = (id) => ((id * 0.618034) % 1) * 360;
export const classColor = (id) => `hsl(${hue(id)} 78% 48%)`;
// From yellow to cyan colours are bright: dark letters on them.
const ink = (id) => (hue(id) > 35 && hue(id) < 195 ? "#0c1a13" : "#fff");

// Where a picture of [width, height] lies in an element: offset and scale in CSS pixels.
export function placement([width, height], element) {
  const scale = Math.min(element.clientWidth / width, element.clientHeight / height);
  return {
    scale,
    left: (element.clientWidth - width * scale) / 2,
    top: (element.clientHeight - height * scale) / 2,
  };
}

export function fitToScreen(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return pen;
}

// boxes: [left, top, right, bottom, score, class id, track or 0] in pixels of a picture of size; best first.
export function drawBoxes(canvas, { boxes, size, names, mirrored }) {
  const pen = fitToScreen(canvas);
  const { scale, left, top } = placement(size, canvas);
  const letter = canvas.clientWidth < 560 ? 11 : 13;
  const plateHeight = letter + 7;
  pen.font = `600 ${letter}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  pen.lineWidth = 2;
  for (const [x1, y1, x2, y2, score, id, track] of [...boxes].reverse()) {
    const width = (x2 - x1) * scale;
    const x = left + (mirrored ? size[0] - x2 : x1) * scale;
    const y = top + y1 * scale;
    const label = `${track ? `#${track} ` : ""}${names[id]} ${Math.round(score * 100)}`;
    pen.strokeStyle = pen.fillStyle = classColor(id);
    pen.strokeRect(x, y, width, (y2 - y1) * scale);
    const plate = pen.measureText(label).width + 10;
    const plateY = y >= plateHeight ? y - plateHeight : y;
    pen.fillRect(x - 1, plateY, plate, plateHeight);
    pen.fillStyle = ink(id);
    pen.fillText(label, x + 4, plateY + 4);
  }
}
