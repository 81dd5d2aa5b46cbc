import type { runtime } from "../gen/cri";
import type { Images } from "../image";
import { imageInfo, readAuth, readImageName, writeFilesystem, writeImage } from "./convert/image";
import type { Call, Handlers } from "./server";

type v1 = typeof runtime.v1;
type Message<Name extends keyof v1> = v1[Name] extends { create(): infer T } ? T : never;

/**
 * ImageService. Ignored of a pull: `sandbox_config` (there is one policy for all namespaces) and the spec's
 * annotations and `runtime_handler` (there is one image store).
 */
export function imageService(images: () => Images): Handlers {
  return {
    ListImages: (request: Message<"ListImagesRequest">) => {
      const wanted = request.filter?.image?.image;
      if (!wanted) return { images: images().list().map(writeImage) };
      const image = images().find(wanted);
      return { images: image ? [writeImage(image)] : [] };
    },
    ImageStatus: (request: Message<"ImageStatusRequest">) => {
      const image = images().find(readImageName("image", request.image));
      if (!image) return {};
      return {
        image: writeImage(image),
        info: request.verbose ? { info: JSON.stringify(imageInfo(image)) } : {},
      };
    },
    PullImage: async (request: Message<"PullImageRequest">, call: Call) => {
      const reference = readImageName("image", request.image);
      const auth = readAuth("auth", request.auth);
      return { imageRef: (await images().pull({ reference, auth, signal: call.signal })).id };
    },
    RemoveImage: async (request: Message<"RemoveImageRequest">) => {
      await images().remove(readImageName("image", request.image));
      return {};
    },
    ImageFsInfo: () => {
      const usage = [writeFilesystem(images().usage())];
      return { imageFilesystems: usage, containerFilesystems: usage };
    },
  };
}
