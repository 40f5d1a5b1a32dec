// Images of one head, LR first and HR last, become one stage with an edge between two of them.
for (const compare of document.querySelectorAll(".compare")) {
  const images = [...compare.querySelectorAll("img")];
  const [head] = images[0].alt.split(", ", 1);
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

  const edge = make("input", { type: "range", value: 50, ariaLabel: `${head}: place of the edge` });
  const stage = make("div", { className: "stage" });
  stage.append(...images, make("div", { className: "edge" }), edge);
  const move = () => stage.style.setProperty("--edge", `${edge.value}%`);
  edge.addEventListener("input", move);
  move();

  const choose = (role, side, first) => {
    const select = make("select", { className: role, ariaLabel: `${head}: image ${side} of the edge` });
    images.forEach((image, i) => select.add(new Option(image.alt.slice(head.length + 2), i, false, i === first)));
    const show = () => images.forEach((image, i) => image.classList.toggle(role, i === select.selectedIndex));
    select.addEventListener("change", show);
    show();
    return select;
  };
  const lists = [choose("before", "left", 0), choose("after", "right", images.length - 1)];
  compare.replaceChildren(make("p", { textContent: head }), stage, ...lists);
  compare.classList.add("ready");
}
