namespace FramePin.Drivers;

/// <summary>
/// The structures of linux/videodev2.h on a 64-bit machine: bytes of each, and offsets of its fields in bytes. Integers
/// are little-endian and have four bytes where nothing else is said.
/// </summary>
internal static class V4l2Layout
{
    /// <summary>V4L2_PIX_FMT_PRIV_MAGIC: the fields behind priv mean something.</summary>
    public const uint PrivMagic = 0xfeed_cafe;

    /// <summary>struct v4l2_capability. Driver, Card and BusInfo are texts that end with a zero.</summary>
    public static class Capability
    {
        public const int Driver = 0;
        public const int Card = 16;
        public const int BusInfo = 48;
        public const int Version = 80;
        public const int Capabilities = 84;
        public const int DeviceCaps = 88;
    }

    /// <summary>struct v4l2_format. A union follows the type, aligned to eight bytes.</summary>
    public static class Format
    {
        public const int Type = 0;
        public const int Union = 8;
        public const int Width = 8;
        public const int Height = 12;
        public const int PixelFormat = 16;
        public const int Field = 20;
    }

    /// <summary>struct v4l2_pix_format, as the union of struct v4l2_format has it.</summary>
    public static class PixFormat
    {
        public const int BytesPerLine = 24;
        public const int SizeImage = 28;
        public const int Colorspace = 32;
        public const int Priv = 36;
        public const int Flags = 40;
        public const int End = 56;
    }

    /// <summary>
    /// struct v4l2_pix_format_mplane, as the union of struct v4l2_format has it: packed, with a struct
    /// v4l2_plane_pix_format a plane. NumPlanes has one byte.
    /// </summary>
    public static class PixFormatMplane
    {
        public const int Colorspace = 24;
        public const int PlaneFormats = 28;
        public const int PlaneFormatBytes = 20;
        public const int PlaneSizeImage = 0;
        public const int PlaneBytesPerLine = 4;
        public const int NumPlanes = 188;
    }

    /// <summary>struct v4l2_requestbuffers. Flags has one byte, and reserved ones follow it.</summary>
    public static class RequestBuffers
    {
        public const int Count = 0;
        public const int Type = 4;
        public const int Memory = 8;
        public const int Capabilities = 12;
        public const int Flags = 16;
    }

    /// <summary>struct v4l2_create_buffers. Reserved fields follow MaxNumBuffers.</summary>
    public static class CreateBuffers
    {
        public const int Index = 0;
        public const int Count = 4;
        public const int Memory = 8;
        public const int Format = 16;
        public const int Capabilities = 224;
        public const int MaxNumBuffers = 232;
    }

    /// <summary>struct v4l2_remove_buffers. Reserved fields follow Type.</summary>
    public static class RemoveBuffers
    {
        public const int Index = 0;
        public const int Count = 4;
        public const int Type = 8;
        public const int Reserved = 12;
    }

    /// <summary>
    /// struct v4l2_buffer. Timestamp is two numbers of eight bytes, seconds and microseconds. M is a union of eight
    /// bytes: offset, userptr, the address of the planes, fd.
    /// </summary>
    public static class Buffer
    {
        public const int Index = 0;
        public const int Type = 4;
        public const int BytesUsed = 8;
        public const int Flags = 12;
        public const int Field = 16;
        public const int Seconds = 24;
        public const int Microseconds = 32;
        public const int Timecode = 40;
        public const int TimecodeBytes = 16;
        public const int Sequence = 56;
        public const int Memory = 60;
        public const int M = 64;
        public const int Length = 72;
        public const int Reserved2 = 76;
        public const int RequestFd = 80;
    }

    /// <summary>
    /// struct v4l2_plane. M is a union of eight bytes: mem_offset, userptr, fd. Reserved fields follow DataOffset.
    /// </summary>
    public static class Plane
    {
        public const int Bytes = 64;
        public const int BytesUsed = 0;
        public const int Length = 4;
        public const int M = 8;
        public const int DataOffset = 16;
        public const int Reserved = 20;
    }

    /// <summary>struct v4l2_exportbuffer. Reserved fields follow Fd.</summary>
    public static class ExportBuffer
    {
        public const int Type = 0;
        public const int Index = 4;
        public const int Plane = 8;
        public const int Flags = 12;
        public const int Fd = 16;
    }
}
