namespace FramePin.V1.Local;

/// <summary>What a packet of a local call holds (framepin/v1/local.proto).</summary>
public enum PacketKind : byte
{
    /// <summary>A <see cref="LocalCallHeader"/>: begins a call.</summary>
    Call = 1,
    /// <summary>A message of the method.</summary>
    Message = 2,
    /// <summary>Nothing: the client's last message came before.</summary>
    End = 3,
    /// <summary>A <see cref="LocalStatus"/>: ends the call.</summary>
    Status = 4,
}
