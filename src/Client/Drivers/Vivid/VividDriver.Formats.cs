using FramePin.V1;

namespace FramePin.Drivers.Vivid;

/// <summary>
/// The formats of a vivid node. A capture node has a webcam as its input, an output node an S-Video plug with PAL.
/// </summary>
public sealed partial class VividDriver
{
    private const string FirstFormat = "YUYV";
    private const int MaxSide = 8192;

    /// <summary>PLANE0_DATA_OFFSET: bytes that vivid keeps before the picture where the API is multi-planar.</summary>
    private const uint FirstOffset = 128;

    /// <summary>V4L2_FIELD_NONE: progressive pictures.</summary>
    private const uint FieldNone = 1;

    /// <summary>V4L2_FIELD_INTERLACED.</summary>
    private const uint FieldInterlaced = 4;

    /// <summary>V4L2_COLORSPACE_SMPTE170M.</summary>
    private const uint ColorspaceSmpte170M = 1;

    /// <summary>V4L2_COLORSPACE_SRGB.</summary>
    private const uint ColorspaceSrgb = 8;

    /// <summary>A format of the node: those of several planes want the multi-planar API.</summary>
    private PixelFormat? Find(string code, int width, int height)
    {
        if (PixelFormat.Find(code, width, height) is not { } format) return null;
        if (!_options.IsMultiplanar) return format.Planes.Count == 1 ? format : null;
        return code == FirstFormat ? format.WithOffset(FirstOffset) : format;
    }

    /// <summary>
    /// G_FMT, S_FMT, TRY_FMT: an unknown format becomes the first, a size is brought into bounds; -EBUSY while buffers
    /// are there.
    /// </summary>
    private IoctlResult Format(string command, V4l2Format argument)
    {
        if (argument.Type != Queue.Options.Type) return Errno.EINVAL;
        if (command == V4l2.GetFormat) return new IoctlResult(Errno.None, Describe(_format));
        var width = Math.Clamp((int)Math.Min(argument.Width, MaxSide), 16, MaxSide);
        var height = Math.Clamp((int)Math.Min(argument.Height, MaxSide), 16, MaxSide);
        var wanted = Find(V4l2.Name(argument.PixelFormat), width, height) ?? Find(FirstFormat, width, height)!;
        if (command == V4l2.TryFormat) return new IoctlResult(Errno.None, Describe(wanted));
        if (Queue.IsBusy) return Errno.EBUSY;
        _format = wanted;
        _movement -= _movement % wanted.Group;
        return new IoctlResult(Errno.None, Describe(wanted));
    }

    private V4l2Format Describe(PixelFormat format)
    {
        var answer = new V4l2Format
        {
            Type = Queue.Options.Type,
            Width = (uint)format.Width,
            Height = (uint)format.Height,
            PixelFormat = V4l2.FourCc(format.Code),
            Field = _field,
            Colorspace = _options.IsOutput ? ColorspaceSmpte170M : ColorspaceSrgb,
        };
        answer.Planes.AddRange(format.Planes.Select(
            plane => new V4l2PlaneFormat
            {
                BytesPerLine = plane.BytesPerLine,
                SizeImage = (uint)plane.Size + plane.DataOffset,
            }));
        return answer;
    }
}
