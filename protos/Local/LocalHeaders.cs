using Google.Protobuf;
using Grpc.Core;

namespace FramePin.V1.Local;

/// <summary>gRPC's metadata as local calls carry it, and back.</summary>
public static class LocalHeaders
{
    /// <summary>Appends every entry of <paramref name="source"/> to <paramref name="target"/>.</summary>
    public static void Add(ICollection<LocalMetadata> target, Metadata? source)
    {
        ArgumentNullException.ThrowIfNull(target);
        foreach (var entry in source ?? Metadata.Empty)
            target.Add(new LocalMetadata { Key = entry.Key, Value = ByteString.CopyFrom(entry.ValueBytes) });
    }

    /// <summary>Throws <see cref="ArgumentException"/> for a key that gRPC does not allow.</summary>
    public static Metadata From(IReadOnlyCollection<LocalMetadata> source)
    {
        ArgumentNullException.ThrowIfNull(source);
        if (source.Count == 0) return Metadata.Empty;
        var result = new Metadata();
        foreach (var entry in source)
        {
            if (entry.Key.EndsWith(Metadata.BinaryHeaderSuffix, StringComparison.Ordinal))
                result.Add(entry.Key, entry.Value.ToByteArray());
            else result.Add(entry.Key, entry.Value.ToStringUtf8());
        }

        return result;
    }
}
